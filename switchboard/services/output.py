"""What runs print: stored once, read back, and followed. Viewers here are fed in process, the others re-read every second.

What is read has no holes: what the store no longer holds is had from elsewhere, or a `gap` event stands for it.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from switchboard.domain.errors import Conflict, Forbidden
from switchboard.domain.output import Appended, Event
from switchboard.domain.run import Run
from switchboard.services.book import Book
from switchboard.services.ports import Batch, Decoder, OutputStore

PAGE = 500  # events read at once for a viewer that catches up
BEHIND = 2_000  # events that wait for one viewer; a slower one reads them from the store instead
LOOK_AGAIN = 1.0  # seconds

Older = Callable[[int, int], Awaitable[list[Event]]]
"""Returns events from the first seq on, up to below the second, without a hole: all of them, or as many as come at a time."""


def gap(first: int, below: int, why: str) -> Event:
    """Return what stands for the events from *first* to below *below*."""
    return Event(seq=below - 1, at_ms=0, kind="gap", text=f"events {first} to {below - 1} {why}")


async def not_held(first: int, below: int) -> list[Event]:
    return [gap(first, below, "are no longer held here")]


class Output:
    def __init__(self, store: OutputStore, runs: Book[Run], decode: Decoder) -> None:
        self._store = store
        self._runs = runs
        self._decode = decode
        self._viewers: defaultdict[str, set[_Viewer]] = defaultdict(set)
        self._tails: dict[str, _Tail] = {}
        self._closed = False

    async def append(self, machine: str, run: str, first: int, count: int, events: bytes) -> Appended:
        """Store a batch of *machine*'s. Raises Conflict for a run that was not announced yet, Forbidden for another's."""
        known = self._runs.peek(run) or await self._runs.get(run)
        if known is None:
            raise Conflict(f"run {run} is not known here: announce it first, then send its output", run=run)
        if known.machine != machine:
            raise Forbidden(f"run {run} is not a run of this machine")
        if known.purged:
            return Appended(next=first + count, taken=False)  # its machine does not know yet that it is to be forgotten
        appended = await self._store.append(run, first, count, events)
        if appended.taken and run in self._viewers:
            read = self._read(Batch(first, count, events))
            for viewer in self._viewers[run]:
                viewer.put(first, first + count - 1, read)
        return appended

    async def watermarks(self, spool: Mapping[str, int]) -> dict[str, int]:
        """Return from where to send each run, given the lowest seq that its machine still holds: what neither has is skipped."""
        nexts = await self._store.nexts(list(spool))
        for run, low in spool.items():
            if low > nexts[run]:
                nexts[run] = await self._store.skip(run, low)
        return nexts

    async def read(self, run: str, first: int, limit: int, older: Older = not_held) -> tuple[list[Event], int, int]:
        """Return a page of events from *first* on, the seq that comes after all, and the lowest that is held here.

        An empty page is the end; any other may be shorter than *limit*, and the next one goes on behind its last seq.
        """
        next, low = await self._store.next(run), await self._store.low(run)
        return await self._page(run, max(first, 1), limit, older), next, low

    async def follow(self, run: str, after: int = 0, older: Older = not_held) -> AsyncGenerator[list[Event], None]:
        """Yield every event after seq *after*, with those that have come together, for ever, until `close`."""
        viewer, tail = _Viewer(), self._tails.setdefault(run, _Tail())
        self._viewers[run].add(viewer)
        tail.watched += 1
        position, behind = after, True
        try:
            while not self._closed:
                if behind:
                    events = await self._page(run, position + 1, PAGE, older)
                    behind = bool(events)
                    if events:
                        position = events[-1].seq
                        yield events
                        continue
                fed = await viewer.get(LOOK_AGAIN)
                if fed is None:
                    behind = await self._grown(run, tail, position)
                    continue
                for first, last, read in fed:
                    if first > position + 1:
                        behind = True
                        break
                    if last > position:
                        yield [event for event in read if event.seq > position]
                        position = last
        finally:
            self._viewers[run].discard(viewer)
            tail.watched -= 1
            if not tail.watched:
                self._tails.pop(run, None)
                self._viewers.pop(run, None)

    async def purge(self, run: str) -> None:
        await self._store.purge(run)

    def close(self) -> None:
        """End all that follow."""
        self._closed = True
        for viewers in self._viewers.values():
            for viewer in viewers:
                viewer.wake()

    async def _page(self, run: str, first: int, limit: int, older: Older) -> list[Event]:
        """Return events from *first* on, up to the first hole; when there is one at *first*, what *older* has of it."""
        batches = await self._store.read(run, first, limit)
        if not batches and (next := await self._store.next(run)) > first:
            batches = await self._store.read(run, first, limit)  # what has come in between is no hole
            if not batches:
                return (await older(first, min(next, first + limit)))[:limit]
        if batches and batches[0].first > first:
            return (await older(first, min(batches[0].first, first + limit)))[:limit]
        events: list[Event] = []
        next = first
        for batch in batches:
            if batch.first > next:
                break
            events.extend(event for event in self._read(batch) if event.seq >= next)
            next = batch.first + batch.count
        return events[:limit]

    async def _grown(self, run: str, tail: "_Tail", position: int) -> bool:
        """Whether the stream has grown past *position*; one look a second serves all viewers of a run."""
        now = asyncio.get_running_loop().time()
        if now - tail.looked_at >= LOOK_AGAIN:
            tail.looked_at = now
            tail.next = await self._store.next(run)
        return tail.next > position + 1

    def _read(self, batch: Batch) -> list[Event]:
        """Return its events, numbered by their place: what a machine wrote into them is not what counts here."""
        below = batch.first + batch.count
        events = self._decode(batch.events)[-batch.count :] or [gap(batch.first, below, "are an empty batch")]
        start = below - len(events)
        return [e if e.seq == start + n else replace(e, seq=start + n) for n, e in enumerate(events)]


@dataclass(slots=True)
class _Tail:
    watched: int = 0
    looked_at: float = 0.0
    next: int = 1


@dataclass(slots=True, eq=False)
class _Viewer:
    """What waits for one viewer, bounded: when it overflows, all of it is dropped, and the viewer reads the store."""

    waiting: deque[tuple[int, int, list[Event]]] = field(default_factory=deque)
    size: int = 0
    some: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, first: int, last: int, events: list[Event]) -> None:
        if self.size + len(events) > BEHIND:
            self.waiting.clear()
            self.size = 0
        self.waiting.append((first, last, events))
        self.size += len(events)
        self.some.set()

    def wake(self) -> None:
        self.some.set()

    async def get(self, seconds: float) -> list[tuple[int, int, list[Event]]] | None:
        """Return what has come, None when nothing did."""
        try:
            async with asyncio.timeout(seconds):
                await self.some.wait()
        except TimeoutError:
            return None
        self.some.clear()
        fed, self.size = list(self.waiting), 0
        self.waiting.clear()
        return fed
