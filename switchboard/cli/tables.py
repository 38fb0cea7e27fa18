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

FOLDED_ROWS = 500  # more of them take seconds to fold, and nobody reads them one by one

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
        self.on_terminal = sys.stdout.isatty()
        self.console = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)

    @property
    def width(self) -> int:
        """Characters in a line; without a terminal there is no end to it."""
        return self.console.width if self.on_terminal else 1000

    def show(self, value: Any, people: Callable[[], object]) -> None:
        """Print *value* as JSON, or what *people* returns: a table, or lines that are safe already."""
        if self.json:
            click.echo(as_json(value))
            return
        shown = people()
        if isinstance(shown, Grid):
            self.draw(shown)
        elif shown is not None:
            click.echo(str(shown))

    def draw(self, grid: "Grid") -> None:
        if self.on_terminal and len(grid) <= FOLDED_ROWS:
            self.console.print(grid)
        else:
            click.echo(grid.lines())

    def line(self, value: Any) -> None:
        """Print one JSON line of a stream."""
        click.echo(as_json(value, indent=None))


def say(text: str) -> None:
    """Tell the person at the terminal something that is not the answer."""
    click.echo(text, err=True)


class Grid:
    """Rows under headers. The first column holds ids, which people copy: it is never folded while another column can be."""

    def __init__(self, headers: Sequence[str], rows: Iterable[Sequence[object]], styled: int | None) -> None:
        self._headers, self._styled = headers, styled
        self._rows = [
            ["\n".join(map(plain, cell)) if isinstance(cell, tuple) else plain(cell) for cell in row] for row in rows
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __rich__(self) -> Table:
        """For a terminal: folded to its width, and coloured."""
        made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for number, header in enumerate(self._headers):
            made.add_column(header, overflow="fold", no_wrap=number == 0)
        for row in self._rows:
            cells = [Text(cell) for cell in row]
            if self._styled is not None:
                cells[self._styled].stylize(STYLES.get(row[self._styled].split("\n")[0].split(" ")[0], ""))
            made.add_row(*cells)
        return made

    def lines(self) -> str:
        """For everything else: a row is a line, nothing is folded or cut."""
        rows = [list(self._headers), *([cell.replace("\n", " ") for cell in row] for row in self._rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], styled: int | None = None) -> Grid:
    """Return a table; the column *styled* is coloured by the word in it, and a cell that is a tuple has a line for each."""
    return Grid(headers, rows, styled)


WIDE = 165  # below it, each run takes two lines
RUN_HEADERS = (
    *("RUN", "STATE", "MACHINE", "REPO", "BRANCH", "AGENT", "MODE", "OWNER", "WAITS FOR", "AGE", "SEEN", "NOT GATED"),
)
NARROW_HEADERS = ("RUN, WAITS FOR", "STATE, SEEN", "MACHINE, OWNER", "REPO, BRANCH", "AGENT, MODE", "AGE, NOT GATED")


def runs_table(rows: Sequence[Row], width: int) -> Grid:
    if width >= WIDE:
        return table(RUN_HEADERS, (_run_cells(row, width > 2 * WIDE) for row in rows), styled=1)

    def stacked(row: Row) -> tuple[object, ...]:
        run, state, machine, repo, branch, agent, mode, owner, waits_for, old, seen, loose = _run_cells(row, False)
        return (run, waits_for), (state, seen), (machine, owner), (repo, branch), (agent, mode), (old, loose)

    return table(NARROW_HEADERS, map(stacked, rows), styled=1)


def _run_cells(row: Row, in_words: bool) -> tuple[object, ...]:
    not_gated = row.get("not_gated") or ()
    seen = age(row.get("proof_age_s"))
    return (
        row.get("id"),
        row.get("state"),
        row.get("machine_name") or row.get("machine"),
        row.get("repo") or row.get("path"),
        row.get("branch"),
        " ".join(filter(None, (row.get("agent"), row.get("agent_version")))),
        "/".join(filter(None, (row.get("mode"), row.get("permission_mode")))),
        row.get("owner"),
        row.get("waits_for"),
        age(row.get("age_s")),
        f"{seen} ago" if row.get("reachable", True) and seen else f"away{', ' + seen if seen else ''}",
        "; ".join(map(str, not_gated)) if in_words else (f"{len(not_gated)} things" if not_gated else ""),
    )


def approvals_table(rows: Sequence[Row]) -> Grid:
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


def machines_table(rows: Sequence[Row]) -> Grid:
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
    left_out = safety.get("left_out")
    files = f"{safety.get('files')} {'file' if safety.get('files') == 1 else 'files'}"
    return f"{safety.get('id')}: {files}, {size(safety.get('bytes'))}" + (f", {left_out} not saved" if left_out else "")


def order_rows_table(rows: Sequence[Row]) -> Grid:
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
