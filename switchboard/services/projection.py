"""What a replica knows by heart: every projected noun in memory, from a snapshot, the change stream, and re-reading anyway.

The store's word counts, even an older one (it may have lost a write): only what changed here during the reading is newer than it.
"""

import asyncio
import contextlib
import random
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

import structlog

from switchboard.domain.errors import Conflict, Unavailable
from switchboard.services.feed import Feed, FeedItem
from switchboard.services.memory import Memory
from switchboard.services.ports import Change, Changes, Epochs, Records, Stored

REREAD = 30.0  # seconds, give or take a third
REMEMBERED = 5_000  # changes that a viewer who was cut off can take up again

log = structlog.get_logger()


class Projection(Memory):
    def __init__(
        self,
        records: Mapping[str, Records[Any]],
        changes: Changes,
        epochs: Epochs,
        *,
        reread: float = REREAD,
    ) -> None:
        super().__init__(records)
        self._records = records
        self._changes = changes
        self._epochs = epochs
        self._reread_every = reread
        self._recent: deque[FeedItem] = deque(maxlen=REMEMBERED)
        self._feeds: WeakSet[Feed] = WeakSet()
        self.position = "0-0"  # in the stream of changes
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.epoch = ""  # of the store that is known here

    async def __aenter__(self) -> "Projection":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Take the snapshot, then follow in a task of this projection's own until `close`. Raises Unavailable."""
        self.position = await self._changes.newest()
        await self.reread()
        self._recent.clear()
        self._task = asyncio.create_task(self._run(), name="projection")

    async def close(self) -> None:
        for feed in list(self._feeds):
            feed.end()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def put(self, noun: str, stored: Stored[Any]) -> bool:
        """As for all memories; and who follows here hears of a question before word of it has been round the stream, then again."""
        changed = super().put(noun, stored)
        if changed and noun == "approval":
            for feed in list(self._feeds):
                feed.put((self.position, noun, stored.id))
        return changed

    async def refresh(self, noun: str, *ids: str) -> None:
        """Read these again. Raises Unavailable."""
        held = self._held[noun]
        before = {id: held.get(id) for id in ids}
        for stored in await self._records[noun].look(list(before)):
            self.heard(noun, before[stored.id], stored)

    async def reread(self) -> None:
        """Read everything again, and notice a store that came back empty. Raises Unavailable."""
        async with self._reading:
            epoch, was = await self._epochs.epoch(), self.epoch
            if was and epoch != was:
                log.warning("the store came back empty", was=was, now=epoch)
            for noun, records in self._records.items():
                await self._reread_noun(noun, records)
            self.epoch = epoch
            if was and epoch != was:
                self._lose_feeds()

    async def _reread_noun(self, noun: str, records: Records[Any]) -> None:
        held = self._held[noun]
        before = dict(held)
        there: set[str] = set()
        changed: list[str] = []
        async with contextlib.aclosing(records.scan({id: s.version for id, s in before.items()})) as pages:
            async for page in pages:
                there.update(page.ids)
                changed += [stored.id for stored in page.fresh if self.heard(noun, before.get(stored.id), stored)]
                await asyncio.sleep(0)  # ten thousand of them must not hold everything else up
        for id, stored in before.items():
            if id not in there and held.get(id) is stored:
                if self._set(noun, stored, Stored(id, stored.version, None)):
                    changed.append(id)
                del held[id]
        for id in changed:
            self._feed((self.position, noun, id))

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="projection: changes")
            tasks.create_task(self._keep_reading(), name="projection: re-reading")

    async def _keep_reading(self) -> None:
        while True:
            await asyncio.sleep(self._reread_every * random.uniform(2 / 3, 4 / 3))  # noqa: S311  jitter, not a secret
            try:
                await self.reread()
            except Unavailable:
                pass  # the next time
            except Exception:
                # Whatever it is, a replica that goes blind for good would be worse.
                log.exception("the re-reading failed")

    async def _follow(self) -> None:
        pause = 0.1
        while True:
            try:
                async with contextlib.aclosing(self._changes.follow(self.position)) as batches:
                    async for batch in batches:
                        await self._take(batch)
                        pause = 0.1
            except Conflict:
                await self._start_over()
            except Exception as error:
                if not isinstance(error, Unavailable):
                    # Whatever it is, a replica that goes blind for good would be worse.
                    log.exception("a change could not be taken in")
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  jitter
                pause = min(pause * 2, 2.0)

    async def _start_over(self) -> None:
        """Changes were lost: what is known is read again, and whoever follows is told to look at everything."""
        try:
            position = await self._changes.newest()
            await self.reread()
        except Unavailable:
            await asyncio.sleep(0.2)
            return
        self.position = position
        self._lose_feeds()

    async def _take(self, batch: Sequence[Change]) -> None:
        stale: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for change in batch:
            if change.noun in self._held:
                held = self._held[change.noun].get(change.subject)
                if held is None or change.version == 0 or held.version < change.version:
                    stale[change.noun][change.subject] = None
        for noun, ids in stale.items():
            await self.refresh(noun, *ids)
        for change in batch:
            self.position = change.id
            if change.noun in self._held:
                self._feed((change.id, change.noun, change.subject))

    def _feed(self, item: FeedItem) -> None:
        self._recent.append(item)
        for feed in list(self._feeds):
            feed.put(item)

    def _lose_feeds(self) -> None:
        self._recent.clear()
        for feed in list(self._feeds):
            feed.lose()

    def feed(self, after: str | None = None) -> "Feed":
        """Iterate over (change id, noun, id) of every change since *after* (None: since this call), until `close`.

        Raises Conflict when that is too long ago or the caller too slow: it must look at everything again.
        """
        missed = self._since(after) if after is not None and after != self.position else []
        feed = Feed(missed)
        self._feeds.add(feed)
        return feed

    def _since(self, after: str) -> list[FeedItem]:
        items = list(self._recent)
        for place, (id, _, _) in enumerate(items):
            if id == after:
                return items[place + 1 :]
        raise Conflict("the changes since then are no longer known: look at everything again", after=after[:100])
