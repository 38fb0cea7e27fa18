"""Lists that redraw themselves: woken by the server's live events, and re-read anyway now and then."""

import bisect
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from switchboard.cli.client import Server
from switchboard.cli.errors import Away, Failed
from switchboard.cli.tables import Grid, Printer, Row
from switchboard.cli.text import plain

REREAD_S = 10.0  # a wake-up that was lost costs this much, never a result
AT_MOST_EVERY_S = 0.5


AGES = frozenset({"age_s", "changed_s", "proof_age_s", "expires_in_s"})  # which are others at each look


def watch(
    server: Server,
    out: Printer,
    nouns: Collection[str],
    key: str,
    read: Callable[[], list[Row]],
    draw: Callable[[Sequence[Row]], Grid],
) -> None:
    """Show the rows that *read* gives, and again whenever one of *nouns* changes, until Ctrl-C.

    A terminal shows as many as fit and says how many more there are; elsewhere all are printed at each change that is
    more than age, with --json on one line, under *key*.
    """
    woken: queue.Queue[Failed | None] = queue.Queue()
    threading.Thread(target=_listen, args=(server, nouns, woken), daemon=True).start()
    on_terminal = out.on_terminal and not out.json
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(Live(console=out.console, screen=True, auto_refresh=False)) if on_terminal else None
        before: list[dict[str, Any]] | None = None
        while True:
            rows, trouble = _read(read)
            if live:
                shown = _fitting(out.console, rows, draw) if trouble is None else [Text(trouble), Text("trying again…")]
                live.update(Group(*shown), refresh=True)
            elif trouble is not None:
                click.echo(trouble, err=True)
            elif (state := [{k: v for k, v in row.items() if k not in AGES} for row in rows]) != before:
                before = state
                out.line({key: rows}) if out.json else out.draw(draw(rows))
            time.sleep(AT_MOST_EVERY_S)
            _wait(woken)


def _read(read: Callable[[], list[Row]]) -> tuple[list[Row], str | None]:
    try:
        return read(), None
    except Away as error:  # anything else is a refusal, which asking again would not mend
        return [], plain(error.message)


def _fitting(console: Console, rows: Sequence[Row], draw: Callable[[Sequence[Row]], Grid]) -> list[RenderableType]:
    """Return the first *rows* as a table that fits on the screen, above it the number of those that do not."""

    def lines(count: int) -> int:
        return len(console.render_lines(draw(rows[:count])))

    if len(rows) <= console.height and lines(len(rows)) <= console.height:
        return [draw(rows)]
    # The most that fit: each row takes a line or more.
    fit = bisect.bisect_right(range(min(len(rows), console.height)), console.height - 1, key=lines) - 1
    fit = max(fit, 1)
    return [Text(f"{len(rows) - fit} more than fit here"), draw(rows[:fit])]


def _wait(woken: "queue.Queue[Failed | None]") -> None:
    """Return at the next wake-up, with all those that came together with it taken off."""
    with contextlib.suppress(queue.Empty):
        news = woken.get(timeout=REREAD_S)
        while True:
            if news is not None:
                raise news
            news = woken.get_nowait()


def _listen(server: Server, nouns: Collection[str], woken: "queue.Queue[Failed | None]") -> None:
    while True:
        try:
            for message in server.follow("/events"):
                if message.event in nouns or message.event == "reset":
                    woken.put(None)
        except Away:
            woken.put(None)  # the reader finds out for itself and says so
        except Failed as error:
            woken.put(error)
            return
