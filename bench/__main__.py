"""`make bench`: every figure beside its bare floor, measured in the same run; a table for people, bench/results.json for machines."""

import asyncio
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import approval, kill_tree, order
from bench.figure import Figure

RESULTS = Path(__file__).with_name("results.json")


async def main() -> int:
    figures: list[Figure] = []
    for subject in (order, approval, kill_tree):
        figures += await subject.measure()
    RESULTS.write_text(json.dumps([figure.plain() for figure in figures], indent=1) + "\n")
    table = Table("figure", "value", "floor", "ratio", "target", "")
    for it in figures:
        table.add_row(
            it.name,
            f"{it.value:.2f} {it.unit}",
            f"{it.floor:.2f} {it.unit}",
            f"{it.ratio:.2f}×",
            f"≤ {it.target:g}×",
            "" if it.met else "missed",
        )
    Console(width=140).print(table)
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
