"""Lists that redraw themselves: woken by the server's live events, and re-read anyway now and then."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from switchboard.cli.client import Server
from switchboard.cli.errors import Away, Failed
from switchboard.cli.tables import Grid, Printer
from switchboard.cli.text import as_json, plain

REREAD_S = 10.0  # a wake-up that was lost costs this much, never a result
AT_MOST_EVERY_S = 0.5


def watch(
    server: Server, out: Printer, nouns: Collection[str], read: Callable[[], Any], draw: Callable[[Any], Grid]
) -> None:
    """Show what *read* gives and again whenever one of *nouns* changes, until Ctrl-C. With --json: a line per change."""
    woken: queue.Queue[Failed | None] = queue.Queue()
    threading.Thread(target=_listen, args=(server, nouns, woken), daemon=True).start()
    on_terminal = out.on_terminal and not out.json
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(Live(console=out.console, screen=True, auto_refresh=False)) if on_terminal else None
        before: str | None = None
        while True:
            value, trouble = _read(read)
            if live:
                live.update(
                    draw(value) if trouble is None else Group(Text(trouble), Text("trying again…")), refresh=True
                )
            elif trouble is None and (state := as_json(value, indent=None)) != before:
                before = state
                out.line(value) if out.json else out.draw(draw(value))
            elif trouble is not None:
                click.echo(trouble, err=True)
            time.sleep(AT_MOST_EVERY_S)
            _wait(woken)


def _read(read: Callable[[], Any]) -> tuple[Any, str | None]:
    try:
        return read(), None
    except Away as error:  # anything else is a refusal, which asking again would not mend
        return None, plain(error.message)


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
