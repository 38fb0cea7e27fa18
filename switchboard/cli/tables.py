"""How answers look: tables for people, JSON for programs. Every cell is a stranger's text and is made safe here."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from switchboard.cli.text import age, as_json, plain, size

Row = Mapping[str, Any]

STYLES = {
    "waiting": "bold yellow",
    "open": "bold yellow",
    "running": "green",
    "starting": "green",
    "failed": "bold red",
    "refused": "red",
    "stopping": "magenta",
    "unreachable": "bold red",
    "unconfirmed": "yellow",
    "away": "red",
    "approved": "green",
    "denied": "red",
    "locked": "bold red",
}


class Printer:
    def __init__(self, json: bool) -> None:
        self.json = json
        # Off a terminal nothing is folded or cut: a line is a row.
        width = None if sys.stdout.isatty() else 1000
        self.console = Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)

    def show(self, value: Any, people: Callable[[], object]) -> None:
        """Print *value* as JSON, or what *people* returns: a table, or lines that are safe already."""
        if self.json:
            click.echo(as_json(value))
            return
        shown = people()
        if isinstance(shown, Table):
            self.console.print(shown)
        elif shown is not None:
            click.echo(str(shown))

    def line(self, value: Any) -> None:
        """Print one JSON line of a stream."""
        click.echo(as_json(value, indent=None))


def say(text: str) -> None:
    """Tell the person at the terminal something that is not the answer."""
    click.echo(text, err=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], styled: int | None = None) -> Table:
    """Return a table; the column *styled* is coloured by the word in it."""
    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for header in headers:
        made.add_column(header, overflow="fold")
    for row in rows:
        cells = [Text(plain(cell)) for cell in row]
        if styled is not None:
            cells[styled].stylize(STYLES.get(str(row[styled]).split(" ")[0], ""))
        made.add_row(*cells)
    return made


RUN_HEADERS = (
    "RUN",
    "STATE",
    "MACHINE",
    "REPO",
    "BRANCH",
    "AGENT",
    "MODE",
    "NOT GATED",
    "OWNER",
    "WAITS FOR",
    "AGE",
    "SEEN",
)


def run_row(row: Row, wide: bool) -> tuple[object, ...]:
    not_gated = row.get("not_gated") or ()
    mode = "/".join(filter(None, (row.get("mode") or "", row.get("permission_mode") or "")))
    seen = age(row.get("proof_age_s"))
    return (
        row.get("id"),
        row.get("state"),
        row.get("machine_name") or row.get("machine"),
        row.get("repo") or row.get("path"),
        row.get("branch"),
        " ".join(filter(None, (row.get("agent"), row.get("agent_version")))),
        mode,
        "; ".join(map(str, not_gated)) if wide else (f"{len(not_gated)}" if not_gated else ""),
        row.get("owner"),
        row.get("waits_for"),
        age(row.get("age_s")),
        f"{seen} ago" if row.get("reachable", True) and seen else f"away{', ' + seen if seen else ''}",
    )


def runs_table(rows: Sequence[Row], width: int) -> Table:
    return table(RUN_HEADERS, (run_row(row, width >= 180) for row in rows), styled=1)


def approvals_table(rows: Sequence[Row]) -> Table:
    headers = ("APPROVAL", "STATE", "ASKS", "WHAT", "RUN", "REPO", "OWNER", "DELIVERY")
    return table(
        headers,
        (
            (
                row.get("id"),
                row.get("state"),
                row.get("tool") or row.get("kind"),
                _short(row.get("title")),
                row.get("run"),
                row.get("repo"),
                row.get("owner"),
                row.get("delivery"),
            )
            for row in rows
        ),
        styled=1,
    )


def machines_table(rows: Sequence[Row]) -> Table:
    headers = ("MACHINE", "NAME", "STATE", "AGENTS", "OWNER", "PLATFORM", "VERSION", "LAST SEEN")
    return table(
        headers,
        (
            (
                row.get("id"),
                row.get("name"),
                machine_state(row),
                "; ".join(agent_line(agent) for agent in row.get("agents") or ()),
                row.get("owner"),
                row.get("platform"),
                row.get("version"),
                f"{age(row['seen_age_s'])} ago" if row.get("seen_age_s") is not None else "never",
            )
            for row in rows
        ),
        styled=2,
    )


def machine_state(row: Row) -> str:
    standing = str(row.get("standing") or "active")
    if standing != "active":
        return standing
    return "attached" if row.get("attached") else "away"


def agent_line(agent: Row) -> str:
    """Return what was found of one agent program: its version, and signed in or what is wrong."""
    name = " ".join(filter(None, (str(agent.get("name") or ""), str(agent.get("version") or ""))))
    if agent.get("problem"):
        return f"{name}: {agent['problem']}"
    return f"{name}, {'signed in' if agent.get('signed_in') else 'not known to be signed in'}"


def safety_line(safety: Row | None) -> str:
    if not safety:
        return ""
    if safety.get("error"):
        return f"not saved: {safety['error']}"
    left_out = len(safety.get("not_saved") or ())
    return f"{safety.get('id')}: {safety.get('files')} files, {size(safety.get('bytes'))}" + (
        f", {left_out} not saved" if left_out else ""
    )


def order_rows_table(rows: Sequence[Row]) -> Table:
    headers = ("RUN", "MACHINE", "STANDING", "PROOF", "RUNG", "TOOK", "PROCESSES", "SAVED", "REASON")

    def cells(row: Row) -> tuple[object, ...]:
        receipt = row.get("receipt") or {}
        took = f"{receipt['took_ms']} ms" if receipt else ""
        return (
            row.get("run"),
            row.get("machine_name") or row.get("machine"),
            row.get("standing"),
            receipt.get("proof"),
            receipt.get("rung"),
            took,
            receipt.get("processes"),
            safety_line(receipt.get("safety")),
            receipt.get("reason"),
        )

    return table(headers, map(cells, rows), styled=2)


def _short(text: object) -> str:
    """Return the first 80 characters; the whole is shown by the command that asks for a decision."""
    line = " ".join(str(text or "").split())
    return line if len(line) <= 80 else line[:79] + "…"
