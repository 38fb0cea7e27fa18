"""What runs print, on its way out: secrets masked, limited by the content rule, numbered, spooled, then sent.

An event that has a number is in the spool before anybody is told of it.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace

import structlog

from daemon.clock import Clock
from daemon.disk import DiskFull
from daemon.domain.agent import Output, OutputKind
from daemon.domain.content import Content, limit
from daemon.domain.outbox import Event, Outbox, Quota, lost
from daemon.domain.redaction import Redactor, Stream
from daemon.link.upload import Batch
from daemon.reports import Reports
from daemon.spool import WINDOW_MS, Spool
from daemon.translate import output as words

log = structlog.get_logger()

BATCH_EVENTS = 500
BATCH_BYTES = 256 * 1024
ANSWER_BYTES = 2 * 2**20  # of old output in one answer, which JSON can make six times as long, and 16 MiB are taken
STREAMED = frozenset({OutputKind.MESSAGE, OutputKind.THINKING})  # these come in pieces of one block


@dataclass(slots=True)
class _Speaking:
    """One run that is or was being listened to."""

    outbox: Outbox
    content: Content = Content.FULL
    attempt: int = 1
    held: tuple[Output, Stream] | None = None  # the block whose last line may go on
    timer: asyncio.TimerHandle | None = None
    acked_ms: int = 0  # when the switchboard last confirmed something


class Outputs:
    """The source of the upload, and the one place through which output leaves a run."""

    def __init__(self, spool: Spool, redactor: Redactor, clock: Clock, quota: Quota, reports: Reports) -> None:
        self._spool, self._redactor, self._clock, self._quota, self._reports = spool, redactor, clock, quota, reports
        self._runs: dict[str, _Speaking] = {}
        self.poke: Callable[[str], None] = lambda run: None  # set when there is an upload to wake
        for run in filter(None, spool.runs()):
            low, next = spool.range(run)
            self._runs[run] = _Speaking(self._outbox(next, low))

    def open(self, run: str, attempt: int, content: str) -> None:
        """Listen to an attempt; its numbers go on where the last one's ended."""
        low, next = self._spool.range(run)
        known = self._runs.get(run)
        acked = known.outbox.acked if known else low
        self._runs[run] = _Speaking(self._outbox(next, acked), Content(content), attempt)

    def say(self, run: str, output: Output) -> None:
        """Take one output of the agent, or a word of the daemon's own."""
        speaking = self._runs[run]
        for masked in self._masked(speaking, output):
            self._take(speaking, masked)
        self._flush(run, speaking)

    def rest(self, run: str) -> None:
        """The turn or the run is over: nothing is held back any longer."""
        speaking = self._runs.get(run)
        if speaking is None:
            return
        now, wall = self._clock.boot_ms(), self._clock.wall_ms()
        for output in self._finished(speaking):
            self._take(speaking, output)
        for events in speaking.outbox.close(at=now, wall_ms=wall, attempt=speaking.attempt):
            self._keep(run, speaking, events)

    def watermarks(self, of: Mapping[str, int], *, fresh_store: bool) -> None:
        """The switchboard has said from where to send each run. One that it did not name is sent from the start when its store
        is another one, or when it never had all of it."""
        for run, speaking in self._runs.items():
            outbox = speaking.outbox
            wanted = of.get(run)
            if wanted is not None:
                if self._reaches(run, outbox, wanted):
                    outbox.rewind(max(1, wanted))
            elif fresh_store or outbox.acked < outbox.next:
                outbox.rewind(1)

    def ranges(self, runs: Iterable[str]) -> dict[str, tuple[int, int]]:
        return {run: self._spool.range(run) for run in runs if run in self._runs}

    def read(self, run: str, first: int, count: int) -> tuple[list[dict[str, object]], int, int]:
        """Return held events from *first* on, the seq after them, and the lowest one held."""
        low, _ = self._spool.range(run)
        rows = self._spool.read(run, max(first, 1), max(1, min(count, 10_000)), ANSWER_BYTES)
        return [words.shown(data) for _, data in rows], rows[-1][0] + 1 if rows else max(first, low), low

    def next(self, run: str) -> int:
        """Return the seq that the run's next event gets."""
        speaking = self._runs.get(run)
        return speaking.outbox.next if speaking else self._spool.range(run)[1]

    def purge(self, run: str) -> None:
        self._spool.purge(run)
        speaking = self._runs.get(run)
        if speaking is not None:
            _, next = self._spool.range(run)
            speaking.outbox.confirm(next)

    def let_go(self, known: Set[str], alive: Set[str]) -> None:
        """Forget runs that the journal has forgotten, and the output of ended ones that the switchboard has long had."""
        long_ago = self._clock.boot_ms() - WINDOW_MS
        for run, speaking in list(self._runs.items()):
            if run not in known:
                self._spool.forget(run)
                del self._runs[run]
            elif run not in alive and speaking.outbox.acked >= speaking.outbox.next and speaking.acked_ms < long_ago:
                low, next = self._spool.range(run)
                if low < next:
                    self._spool.purge(run)

    def try_disk(self) -> None:
        """Raises DiskFull while the spool takes nothing."""
        self._spool.skip("", 1)

    # Source of the upload.

    def pending(self) -> list[str]:
        return [run for run, speaking in self._runs.items() if speaking.outbox.next_to_send < speaking.outbox.next]

    def batch(self, run: str) -> Batch | None:
        speaking = self._runs.get(run)
        if speaking is None or speaking.outbox.next_to_send >= speaking.outbox.next:
            return None
        first = speaking.outbox.next_to_send
        rows = self._spool.read(run, first, BATCH_EVENTS, BATCH_BYTES)
        if not rows or rows[0][0] > first:
            below = rows[0][0] if rows else speaking.outbox.next
            gone = lost(first, below, self._clock.wall_ms(), speaking.attempt)
            batch = Batch(first, below - first, [words.event(gone)])
        else:
            batch = Batch(first, len(rows), [data for _, data in rows])
        speaking.outbox.sent(batch.first + batch.count)
        return batch

    def answered(self, run: str, sent: Batch, next: int) -> None:
        speaking = self._runs.get(run)
        if speaking is None:
            return
        if not self._reaches(run, speaking.outbox, next):
            return
        speaking.outbox.answered(sent.first, sent.count, next)
        speaking.acked_ms = self._clock.boot_ms()
        try:
            self._spool.drop(run, min(next, speaking.outbox.next))
        except DiskFull as error:
            self._reports.disk_full(str(error))

    # Parts.

    def _reaches(self, run: str, outbox: Outbox, next: int) -> bool:
        """Make the run go on at *next* where the switchboard has come further than this machine; False when it cannot."""
        if next <= outbox.next:
            return True
        try:
            self._spool.skip(run, next)
        except ValueError as error:
            log.error("a watermark is not followed", why=str(error))
            return False
        except DiskFull as error:
            self._reports.disk_full(str(error))
            return False
        return True

    def _take(self, speaking: _Speaking, masked: Output) -> None:
        shown = limit(masked, speaking.content)
        speaking.outbox.take(shown, at=self._clock.boot_ms(), wall_ms=self._clock.wall_ms(), attempt=speaking.attempt)

    def _outbox(self, next: int, acked: int) -> Outbox:
        return Outbox(next=next, acked=acked, quota=self._quota, at=self._clock.boot_ms())

    def _masked(self, speaking: _Speaking, output: Output) -> Iterable[Output]:
        """Yield what can be shown by now: of a streamed block all but its last line, which may hold half a secret."""
        held = speaking.held
        if held is not None and (held[0].kind, held[0].block) != (output.kind, output.block):
            yield from self._finished(speaking)
            held = None
        detail = self._redactor.scrub(output.detail)
        if output.kind not in STREAMED or not output.block:
            yield replace(output, text=self._redactor.text(output.text), detail=detail)
            return
        stream = held[1] if held else self._redactor.stream()
        text = stream.feed(output.text)
        speaking.held = (replace(output, text="", detail={}), stream)
        if text or detail:
            yield replace(output, text=text, detail=detail)

    def _finished(self, speaking: _Speaking) -> Iterable[Output]:
        held, speaking.held = speaking.held, None
        if held is not None and (text := held[1].flush()):
            yield replace(held[0], text=text)

    def _flush(self, run: str, speaking: _Speaking) -> None:
        outbox = speaking.outbox
        while events := outbox.flush(at=self._clock.boot_ms(), wall_ms=self._clock.wall_ms(), attempt=speaking.attempt):
            self._keep(run, speaking, events)
        due = outbox.due_at()
        if due is not None and speaking.timer is None:
            wait = max(0.0, (due - self._clock.boot_ms()) / 1000)
            speaking.timer = asyncio.get_running_loop().call_later(wait, self._due, run, speaking)

    def _due(self, run: str, speaking: _Speaking) -> None:
        speaking.timer = None
        if self._runs.get(run) is speaking:
            self._flush(run, speaking)

    def _keep(self, run: str, speaking: _Speaking, events: tuple[Event, ...]) -> None:
        try:
            self._spool.append(run, [(event.seq, words.event(event)) for event in events])
        except DiskFull as error:
            speaking.outbox.unspooled(events)
            self._reports.disk_full(str(error))
            return
        self.poke(run)
