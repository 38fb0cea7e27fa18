"""The change stream: who writes a record wakes up whoever follows. A lost entry costs time, never a result."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from redis.exceptions import RedisError

from switchboard import faults
from switchboard.domain.errors import Conflict, Unavailable
from switchboard.services.ports import Change
from switchboard.store.client import Client
from switchboard.store.keys import Keys
from switchboard.store.lines import Lines

KEPT = 100_000
PAGE = 1_000
BLOCK = 2.0  # seconds after which a silent stream is looked at: was it lost?
START = "0-0"


class Publisher:
    """Sends wake-ups behind the saves, many in one go, so that no save waits for one."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._waiting: deque[tuple[Any, ...]] = deque(maxlen=KEPT)
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, noun: str, id: str, version: int, *, index: bool = False, wake: bool = True) -> None:
        if index:
            self._waiting.append(("SADD", self._keys.index(noun), id))
        if wake:
            fields = ("n", noun, "i", id, "v", version)
            self._waiting.append(("XADD", self._keys.changes, "MAXLEN", "~", KEPT, "*", *fields))
        if index or wake:
            self._idle.clear()
            self._some.set()

    async def run(self) -> None:
        """Publish for ever; while the store is away, wake-ups wait, and past a bound the oldest are dropped."""
        pause = 0.05
        while True:
            await self._some.wait()
            some = [self._waiting.popleft() for _ in range(min(len(self._waiting), PAGE))]
            try:
                if some:
                    await self._client.calls(some, again=True)
            except Unavailable:
                self._waiting.extendleft(reversed(some))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
                continue
            pause = 0.05
            if some:
                faults.point("store.change.published")
            if not self._waiting:
                self._some.clear()
                self._idle.set()

    async def settled(self) -> None:
        """Wait until everything that was put is out."""
        await self._idle.wait()


class RedisChanges:
    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._key = keys.changes

    async def newest(self) -> str:
        last = await self._client.call("XREVRANGE", self._key, "+", "-", "COUNT", 1, again=True)
        return _text(last[0][0]) if last else START

    async def follow(self, after: str | None = None) -> AsyncGenerator[Sequence[Change], None]:
        """Yield what changed since *after*, for ever. Raises Conflict when that is no longer known, Unavailable when the link is cut."""
        position = after if after is not None else await self.newest()
        _order(position)
        link = self._client.alone(BLOCK)
        first = True
        try:
            await self._check(link, position)
            while True:
                command = ("XREAD", "COUNT", PAGE, "BLOCK", int(BLOCK * 1000), "STREAMS", self._key, position)
                (answer,) = await link.send(command)
                entries: list[Any] = answer[0][1] if answer else []
                # After the reading, so that nothing is trimmed in between unseen; one who keeps up need not ask.
                if first or not entries or len(entries) == PAGE:
                    await self._check(link, position)
                    first = False
                if entries:
                    position = _text(entries[-1][0])
                    yield [change for entry in entries if (change := _change(entry))]
        except RedisError as error:
            raise Unavailable(f"the store is away: {self._client.address}: {error}") from error
        finally:
            await link.aclose()

    async def _check(self, link: Lines, position: str) -> None:
        lost = Conflict("the changes since then are no longer known: look at everything again", after=position)
        try:
            (raw,) = await link.send(("XINFO", "STREAM", self._key))
        except RedisError as error:
            if "no such key" not in str(error):
                raise
            if position != START:
                raise lost from None
            return
        about = {_text(name): value for name, value in zip(raw[::2], raw[1::2], strict=True)}
        if _order(_text(about["last-generated-id"])) < _order(position):
            raise lost
        first = about["first-entry"]
        if position == START:
            if int(about["entries-added"]) > int(about["length"]):
                raise lost
        elif first and _order(_text(first[0])) > _order(position):
            raise lost


def _change(entry: Any) -> Change | None:
    """None for an entry that is not of ours."""
    id, flat = entry
    raw = dict(zip(flat[::2], flat[1::2], strict=True))
    try:
        return Change(_text(id), raw[b"n"].decode(), raw[b"i"].decode(), int(raw.get(b"v", 0)))
    except (KeyError, ValueError):
        return None


def _order(id: str) -> tuple[int, int]:
    """Raises Conflict for an id that no stream ever gave."""
    match = re.fullmatch(r"([0-9]{1,19})-([0-9]{1,19})", id)
    if match is None:
        raise Conflict("that is no place in the stream of changes: look at everything again")
    return int(match[1]), int(match[2])


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
