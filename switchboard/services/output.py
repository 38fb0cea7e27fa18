"""What runs print: stored once, read back, and followed. Viewers here are fed in process, the others re-read every second."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from switchboard.domain.errors import Conflict, Forbidden
from switchboard.domain.output import Appended, Event
from switchboard.domain.run import Run
from switchboard.services.book import Book
from switchboard.services.ports import Batch, Decoder, OutputStore

PAGE = 500  # events read at once for a viewer that catches up
BEHIND = 2_000  # events that wait for one viewer; a slower one reads them from the store instead
LOOK_AGAIN = 1.0  # seconds


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
        if known.purged:
            return Appended(next=first + count, taken=False)  # its machine does not know yet that it is to be forgotten

    async def read(self, run: str, first: int, limit: int) -> tuple[list[Event], int, int]:
        """Return events from *first* on, the seq that comes next, and the lowest that is held here."""
        next, low = await self._store.next(run), await self._store.low(run)
        events = [
            event
            for batch in await self._store.read(run, max(first, 1), limit)
            for event in self._read(batch)
            if event.seq >= first
        ]
        return events[:limit], next, low

    async def follow(self, run: str, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield every event after seq *after*, for ever, until `close`; a `gap` event stands for what is no longer held."""
        async with aclosing(self.follow_batches(run, after)) as batches:
            async for events in batches:
                for event in events:
                    yield event

    async def follow_batches(self, run: str, after: int = 0) -> AsyncGenerator[list[Event], None]:
        """As `follow`, with what has come together."""
        viewer, tail = _Viewer(), self._tails.setdefault(run, _Tail())
        self._viewers[run].add(viewer)
        tail.watched += 1
        position, behind = after, True
        try:
            while not self._closed:
                if behind:
                    position, events = await self._catch_up(run, position)
                    behind = bool(events)
                    if events:
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

    async def expire(self, run: str, seconds: int | None) -> None:
        await self._store.expire(run, seconds)

    async def purge(self, run: str) -> None:
        await self._store.purge(run)

    def close(self) -> None:
        """End all that follow."""
        self._closed = True
        for viewers in self._viewers.values():
            for viewer in viewers:
                viewer.wake()

    async def _catch_up(self, run: str, position: int) -> tuple[int, list[Event]]:
        """Return the next page after *position*, and where it ends."""
        batches = await self._store.read(run, position + 1, PAGE)
        if not batches:
            return position, []
        events: list[Event] = []
        for batch in batches:
            read = self._read(batch)
            if batch.first > position + 1:
                text = f"events {position + 1} to {batch.first - 1} are no longer held here"
                events.append(Event(seq=batch.first - 1, at_ms=read[0].at_ms if read else 0, kind="gap", text=text))
            events.extend(event for event in read if event.seq > position)
            position = batch.first + batch.count - 1
        return position, events

    async def _grown(self, run: str, tail: "_Tail", position: int) -> bool:
        """Whether the stream has grown past *position*; one look a second serves all viewers of a run."""
        now = asyncio.get_running_loop().time()
        if now - tail.looked_at >= LOOK_AGAIN:
            tail.looked_at = now
            tail.next = await self._store.next(run)
        return tail.next > position + 1

    def _read(self, batch: Batch) -> list[Event]:
        """Return its events, numbered by their place: what a machine wrote into them is not what counts here."""
        events = self._decode(batch.events)[-batch.count :]
        start = batch.first + batch.count - len(events)
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
