"""`make bench`: every figure beside its bare floor, measured in the same run; a table for people, bench/results.json for machines."""

import asyncio
import json
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench import approval, kill_tree, order
from bench.house import quiet

RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    quiet()
    # The server's subjects on the server's loop, the daemon's on its own.
    figures = [*uvloop.run(order.measure()), *uvloop.run(approval.measure()), *asyncio.run(kill_tree.measure())]
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


if __name__ == "__main__":
    main()
