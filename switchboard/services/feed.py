"""One viewer's bounded share of the changes: whoever is too slow is told to look at everything again."""

import asyncio
from collections import deque
from collections.abc import Iterable

from switchboard.domain.errors import Conflict

FeedItem = tuple[str, str, str]  # change id, noun, id
BEHIND = 2_000  # changes that a viewer may lag


class Feed:
    def __init__(self, missed: Iterable[FeedItem] = ()) -> None:
        self._items = deque(missed)
        self._most = len(self._items) + BEHIND
        self._some = asyncio.Event()
        self._ended = self._lost = False

    def put(self, item: FeedItem) -> None:
        if len(self._items) >= self._most:
            self.lose()
        elif not self._lost:
            self._items.append(item)
            self._some.set()

    def lose(self) -> None:
        self._lost = True
        self._items.clear()
        self._some.set()

    def end(self) -> None:
        self._ended = True
        self._some.set()

    async def aclose(self) -> None:
        self.end()

    def __aiter__(self) -> "Feed":
        return self

    async def __anext__(self) -> FeedItem:
        while True:
            if self._lost:
                raise Conflict("too many changes were missed: look at everything again")
            if self._items:
                return self._items.popleft()
            if self._ended:
                raise StopAsyncIteration
            self._some.clear()
            await self._some.wait()
