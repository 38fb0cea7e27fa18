"""The numbering of one run's output: what is let through gets the next number, what is not is counted.

Numbers are given after the quota, so they have no gaps; an event that has one is spooled before it is sent.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from daemon.domain.agent import Output, OutputKind

PIECE = 64 * 1024  # bytes of text or detail in one event
FLUSH_MS = 20
FLUSH_EVENTS = 50
_TAIL = 32 * 1024  # bytes of the newest output that a closed quota keeps for its end
_ALWAYS = {OutputKind.NOTICE, OutputKind.PROMPT, OutputKind.TURN_END}  # few, small, and what people look for


@dataclass(frozen=True, slots=True)
class Quota:
    """*rate* bytes a second with *burst* at once, and *total* over one life of the daemon."""

    rate: int = 1 << 20
    burst: int = 4 << 20
    total: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Event:
    """What is spooled and sent. Until it is numbered its *seq* is 0."""

    at_ms: int  # by the wall clock, for people to read
    attempt: int
    kind: OutputKind
    text: str = ""
    tool: str = ""
    block: str = ""
    detail_json: str = ""
    seq: int = 0

    @property
    def size(self) -> int:
        return 64 + len(self.text.encode()) + len(self.tool) + len(self.block) + len(self.detail_json.encode())


class Outbox:
    def __init__(self, *, next: int = 1, acked: int = 1, quota: Quota | None = None, at: int = 0) -> None:
        """Go on at *next*, as the spool says; times *at* are boot milliseconds."""
        self.next = next  # the number that the next event gets
        self.acked = min(acked, next)  # the server has every event below, durably
        self.next_to_send = self.acked
        self._quota = quota or Quota()
        self._tokens, self._refilled, self._left = float(self._quota.burst), at, self._quota.total
        self._waiting: deque[Event] = deque()
        self._flushed = at - FLUSH_MS
        self._tail: deque[Event] = deque()
        self._tail_bytes = self._dropped = self._dropped_bytes = 0

    # Output in.

    def take(self, output: Output, *, at: int, wall_ms: int, attempt: int) -> None:
        """Let *output* through the quota, in pieces that the wire can carry."""
        self._refill(at)
        for event in pieces(output, wall_ms, attempt):
            if output.kind in _ALWAYS:
                self._reopen(wall_ms, attempt)
                self._waiting.append(event)
            elif not self._tail and event.size <= min(self._tokens, self._left):
                self._spend(event.size)
                self._reopen(wall_ms, attempt)
                self._waiting.append(event)
            else:
                self._keep_back(event)
        self._reopen_if_paid(wall_ms, attempt)

    def due_at(self) -> int | None:
        """When `flush` should next be called, in boot milliseconds; None while there is nothing to say."""
        if self._waiting:
            return self._flushed if len(self._waiting) >= FLUSH_EVENTS else self._flushed + FLUSH_MS
        if self._tail and self._left > 0:
            missing = max(0.0, self._price() - self._tokens)
            return self._refilled + int(missing * 1000 / self._quota.rate) + 1
        return None

    def flush(self, *, at: int, wall_ms: int, attempt: int) -> tuple[Event, ...]:
        """Number what is due, at most 50 events; nothing before its time, so the first of a burst goes at once.

        The caller spools them before anything else, or hands them to `unspooled`.
        """
        self._refill(at)
        self._reopen_if_paid(wall_ms, attempt)
        due = self.due_at()
        if not self._waiting or due is None or at < due:
            return ()
        return self._number(at)

    def close(self, *, at: int, wall_ms: int, attempt: int) -> Iterator[tuple[Event, ...]]:
        """Number all that waits, the end of what the quota kept back included: the turn or the run is over."""
        self._reopen(wall_ms, attempt)
        while self._waiting:
            yield self._number(at)

    def unspooled(self, events: tuple[Event, ...]) -> None:
        """Take back the numbers of the batch that the disk did not take just now; it is counted as dropped."""
        if events:
            self.next = events[0].seq
            for event in events:
                self._drop(event)

    # Events out.

    def sent(self, upto: int) -> None:
        """Events below *upto* are on their way."""
        self.next_to_send = max(self.next_to_send, min(upto, self.next))

    def answered(self, first: int, count: int, next: int) -> None:
        """The server answered the batch of *count* events from *first* with its *next*: a lower one sends again from there."""
        if next >= first + count:
            self.confirm(next)
        else:
            self.rewind(next)

    def confirm(self, next: int) -> None:
        """The server has every event below *next*, durably."""
        self._leap(next)
        self.acked = max(self.acked, next)
        self.next_to_send = max(self.next_to_send, self.acked)

    def rewind(self, next: int) -> None:
        """Send again from *next*, lower than before when the server has lost data."""
        self._leap(next)
        self.acked = self.next_to_send = max(1, next)

    def _leap(self, next: int) -> None:
        # The server has numbers that this machine lost with its power: they are never given twice.
        self.next = max(self.next, next)

    # The quota.

    def _refill(self, at: int) -> None:
        passed = max(0, at - self._refilled)
        self._tokens = min(float(self._quota.burst), self._tokens + passed * self._quota.rate / 1000)
        self._refilled = max(self._refilled, at)

    def _spend(self, size: int) -> None:
        self._tokens -= size
        self._left -= size

    def _keep_back(self, event: Event) -> None:
        self._tail.append(event)
        self._tail_bytes += event.size
        while self._tail_bytes > _TAIL and len(self._tail) > 1:
            oldest = self._tail.popleft()
            self._tail_bytes -= oldest.size
            self._drop(oldest)

    def _drop(self, event: Event) -> None:
        counted = json.loads(event.detail_json or "{}") if event.kind is OutputKind.GAP else {}
        self._dropped += counted.get("events", 1)
        self._dropped_bytes += counted.get("bytes", event.size)

    def _price(self) -> float:
        # Half a burst, so that a flood is not cut into slices with a gap between each two.
        return min(float(self._quota.burst), self._tail_bytes + self._quota.burst / 2)

    def _reopen_if_paid(self, wall_ms: int, attempt: int) -> None:
        if self._tail and self._left > 0 and self._tokens >= self._price():
            self._spend(self._tail_bytes)
            self._reopen(wall_ms, attempt)

    def _reopen(self, wall_ms: int, attempt: int) -> None:
        if self._dropped:
            counts = {"events": self._dropped, "bytes": self._dropped_bytes}
            text = (
                f"{self._dropped:,} events ({self._dropped_bytes:,} bytes) were dropped here by the quota of this run"
            )
            detail = json.dumps(counts, separators=(",", ":"))
            self._waiting.append(Event(wall_ms, attempt, OutputKind.GAP, text, detail_json=detail))
        self._waiting.extend(self._tail)
        self._tail.clear()
        self._tail_bytes = self._dropped = self._dropped_bytes = 0

    def _number(self, at: int) -> tuple[Event, ...]:
        count = min(FLUSH_EVENTS, len(self._waiting))
        batch = tuple(replace(self._waiting.popleft(), seq=self.next + n) for n in range(count))
        self.next += count
        self._flushed = at
        return batch


def lost(first: int, below: int, wall_ms: int, attempt: int) -> Event:
    """Return what stands in for the events from *first* that this machine no longer holds either."""
    text = f"events {first:,} to {below - 1:,} are lost: neither the switchboard nor this machine holds them"
    detail = json.dumps({"events": below - first, "first": first}, separators=(",", ":"))
    return Event(wall_ms, attempt, OutputKind.GAP, text, detail_json=detail, seq=first)


def pieces(output: Output, wall_ms: int, attempt: int) -> Iterator[Event]:
    """Cut *output* into events of at most 64 KiB of text each, at line ends where there are some; the first has the detail."""
    texts = list(_cut(_speakable(output.text)))
    tool, block = _speakable(output.tool)[:256], _speakable(output.block)[:256]
    for number, text in enumerate(texts):
        detail = "" if number or not output.detail else _detail(output.detail)
        yield Event(wall_ms, attempt, output.kind, text, tool, block, detail)


def _cut(text: str) -> Iterator[str]:
    while len(text) > PIECE // 4 and len(text.encode()) > PIECE:
        # Characters are up to 4 bytes: take what fits, back to the last line end in it.
        head = text[:PIECE].encode()[:PIECE].decode(errors="ignore")
        end = head.rfind("\n") + 1
        head = head[:end] if end else head
        yield head
        text = text[len(head) :]
    yield text


def _speakable(text: str) -> str:
    """Replace what UTF-8 cannot hold."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _detail(detail: Mapping[str, Any]) -> str:
    """Return *detail* as JSON of at most 64 KiB: long texts in it are cut, and a detail that is long without them is left out."""
    for limit in (None, 4096, 256):
        try:
            text = json.dumps(_shortened(detail, limit), separators=(",", ":"), ensure_ascii=False, default=str)
        except (TypeError, ValueError, RecursionError):
            return '{"left_out":"it cannot be written as JSON"}'
        size = len(text.encode("utf-8", "backslashreplace"))
        if size <= PIECE:
            return text.encode("utf-8", "backslashreplace").decode()
    return json.dumps({"left_out": f"{size:,} bytes"})


def _shortened(value: Any, limit: int | None) -> Any:
    if isinstance(value, str) and limit is not None and len(value) > limit:
        return f"{value[:limit]}… {len(value) - limit:,} more characters"
    if isinstance(value, Mapping):
        return {str(key): _shortened(part, limit) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(part, limit) for part in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)  # JSON has no infinity
    return value
