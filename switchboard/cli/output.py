"""What a run printed, on a terminal: its words, its tool calls, what they gave back, and its diff."""

import contextlib
import json
import sys
import threading
from collections.abc import Mapping
from typing import Any

import click

from switchboard.cli.client import Server, part
from switchboard.cli.errors import Failed
from switchboard.cli.tables import Printer, say
from switchboard.cli.text import block, payload, plain

Event = Mapping[str, Any]


class Writer:
    """Prints events one after the other; the pieces of one streamed message are joined."""

    def __init__(self, out: Printer) -> None:
        self._out = out
        self._block: tuple[str, str] | None = None
        self.next = 1

    def write(self, event: Event) -> None:
        """Print *event*; one that was printed before is passed over, and a hole is said."""
        seq = event.get("seq")
        if isinstance(seq, int):
            if seq < self.next:
                return
            if seq > self.next:
                self._say(f"events {self.next} to {seq - 1} are not held any more", event)
            self.next = seq + 1
        if self._out.json:
            self._out.line(event)
            return
        kind = str(event.get("kind") or "unknown")
        speaking = (kind, str(event.get("block") or "")) if kind in ("message", "thinking") else None
        if self._block and speaking != self._block:
            click.echo()
        if speaking:
            text = block(event.get("text"))
            click.secho(text, nl=False, dim=kind == "thinking")
        else:
            click.echo(as_text(kind, event))
        self._block = speaking if speaking and not str(event.get("text") or "").endswith("\n") else None

    def _say(self, text: str, event: Event) -> None:
        if not self._out.json:
            self.close()
            click.echo(f"… {text}")

    def close(self) -> None:
        if self._block:
            click.echo()
            self._block = None


def as_text(kind: str, event: Event) -> str:
    """Return the lines that show one whole event."""
    text, tool, detail = event.get("text") or "", plain(event.get("tool")), event.get("detail")
    match kind:
        case "tool_call":
            shown = payload(detail, "  ") if detail else block(text, "  ")
            return f"▶ {tool}\n{shown}"
        case "tool_result":
            return block(text or (json.dumps(detail, ensure_ascii=False) if detail else "(nothing)"), "  │ ")
        case "prompt":
            return block(text, "> ")
        case "notice":
            return f"— {plain(text)}"
        case "gap":
            return f"… {plain(text)}"
        case "turn_end":
            return f"— the turn is over{took(detail)}"
        case _:
            return f"? {plain(kind)} {tool}\n{payload(detail or text, '  ')}"


def took(detail: Any) -> str:
    ms = detail.get("duration_ms") if isinstance(detail, Mapping) else None
    return f" after {ms / 1000:.1f} s" if isinstance(ms, int | float) else ""


def print_all(server: Server, out: Printer, run: str, first: int) -> None:
    """Print what is held of a run's output, from event *first* on."""
    writer = Writer(out)
    writer.next = first
    while True:
        page = server.get(f"/runs/{part(run)}/output", first=writer.next, limit=1000)
        for event in page["events"]:
            writer.write(event)
        if not page["events"] or writer.next >= page.get("end", 0):
            break
    writer.close()


def follow(server: Server, out: Printer, run: str, first: int) -> None:
    """Print a run's output as it comes, across cut links, until the run is over."""
    writer = Writer(out)
    writer.next = first
    if not out.json:
        threading.Thread(target=_tell_of_questions, args=(server, run), daemon=True).start()
    try:
        for message in server.follow(f"/runs/{part(run)}/output/stream", after=str(first - 1) if first > 1 else ""):
            if message.event == "end":
                _tell_missing(message.data)
                break
            if not message.data:
                continue
            try:
                event = json.loads(message.data)
            except ValueError:
                raise Failed(f"{server.place.url} sent an event that is not JSON") from None
            if isinstance(event, Mapping) and "seq" in event:
                writer.write(event)
    except KeyboardInterrupt:
        writer.close()
        say(f"the run goes on; `switchboard run output -f --from {writer.next} {plain(run)}` looks again")
        sys.exit(130)
    except Failed:
        writer.close()
        raise
    writer.close()


def _tell_missing(last_word: str) -> None:
    """Raises Failed where the stream's last word says that there is more output than has come."""
    with contextlib.suppress(ValueError):
        said = json.loads(last_word)
        if isinstance(said, Mapping) and said.get("missing"):
            raise Failed(f"not all of its output is here: {plain(said['missing'])}")


def _tell_of_questions(server: Server, run: str) -> None:
    """Say on stderr what the followed run waits for, which its output alone does not show."""
    told: set[str] = set()

    def tell(question: Any) -> None:
        if isinstance(question, Mapping) and question.get("run") == run and question.get("state") == "open":
            id = plain(question.get("id"))
            if id not in told:
                told.add(id)
                say(f"\n— it waits for a decision: switchboard approve {id}")

    with contextlib.suppress(Failed, ValueError):  # the output itself goes on, and says what is wrong
        for question in server.get("/approvals", run=run, state="open")["approvals"]:
            tell(question)
        for message in server.follow("/events"):
            if message.event == "approval":
                tell(json.loads(message.data))


def diff_text(found: Mapping[str, Any]) -> str:
    """Return a diff by file, coloured on a terminal."""
    parts = []
    for file in found["files"]:
        name = plain(file.get("path"))
        if (old := file.get("old_path")) and old != file.get("path"):
            name = f"{plain(old)} → {name}"
        counts = f"+{file.get('additions', 0)} −{file.get('deletions', 0)}"
        lines = [click.style(f"{plain(file.get('status'))} {name}  {counts}", bold=True)]
        if file["patch"]:
            patch = file["patch"].rstrip("\n").split("\n")
            first = next(
                (n for n, line in enumerate(patch) if line.startswith("@@")), 0
            )  # the line above says the rest
            lines += map(_coloured, patch[first:])
        if file["note"]:  # why there is no patch, or not all of it
            lines.append(f"  … {plain(file['note'])}")
        elif file["truncated"] or file["binary"]:
            lines.append("  … not all of it is shown" if file["truncated"] else "  (binary)")
        parts.append("\n".join(lines))
    if (more := found["count"] - len(found["files"])) > 0:
        parts.append(f"… {more} more {'file has' if more == 1 else 'files have'} changed than are shown here")
    return "\n\n".join(parts) if parts else "nothing has changed"


def _coloured(line: str) -> str:
    colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
    return click.style(block(line), fg=colour)
