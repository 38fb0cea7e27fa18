"""All values of one noun. A record is saved by compare-and-set; its index entry goes before it, its wake-up after it."""

import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Generic, TypeVar, cast

import structlog

from switchboard import faults
from switchboard.clock import Clock
from switchboard.domain.errors import Conflict, Unavailable
from switchboard.services.ports import Page, Stored
from switchboard.store.changes import Publisher
from switchboard.store.client import Client, InDoubt
from switchboard.store.codec import Codec, Unreadable
from switchboard.store.keys import Keys

T = TypeVar("T")
PAGE = 500
ROUNDS = 200  # of compare-and-set, before too many are said to want the same record
GRACE = timedelta(days=1)  # a value that carries its own end is swept by the server this much later, whatever its clock

log = structlog.get_logger()


class RedisRecords(Generic[T]):
    def __init__(
        self,
        noun: str,
        kind: type[T],
        *,
        client: Client,
        keys: Keys,
        clock: Clock,
        publisher: Publisher,
        published: bool = True,
        until: Callable[[T], datetime] | None = None,
    ) -> None:
        self._noun = noun
        self._codec = Codec(kind)
        self._client = client
        self._keys = keys
        self._clock = clock
        self._publisher = publisher
        self._published = published  # whether anybody follows this noun
        self._until = until
        self._reported: dict[str, int] = {}

    @property
    def noun(self) -> str:
        return self._noun

    async def get(self, id: str) -> T | None:
        return (await self._read(id)).value

    async def change(self, id: str, decide: Callable[[T | None], T | None]) -> T | None:
        return (await self.settle(id, decide)).value

    async def delete(self, id: str) -> None:
        await self.drop(id)

    async def all(self) -> list[T]:
        return [stored.value async for page in self.scan({}) for stored in page.fresh if stored.value is not None]

    async def ids(self) -> list[str]:
        return [id async for page in self.scan({}) for id in page.ids]

    async def look(self, ids: Sequence[str]) -> list[Stored[T]]:
        found: list[Stored[T]] = []
        for start in range(0, len(ids), PAGE):
            some = ids[start : start + PAGE]
            blobs = await self._blobs(some)
            read = (self._open(id, blob) for id, blob in zip(some, blobs, strict=True))
            found.extend(stored for stored in read if stored is not None)
        return found

    async def settle(self, id: str, decide: Callable[[T | None], T | None], held: Stored[T] | None = None) -> Stored[T]:
        stored = held
        for _ in range(ROUNDS):
            guessed = stored is held and held is not None
            if stored is None:
                stored = await self._read(id)
            try:
                value = decide(stored.value)
            except Exception:
                # Whatever *decide* says about a value that may be stale is asked again about the one that stands.
                if not guessed:
                    raise
                stored = held = None
                continue
            if value is None or value == stored.value:
                if not guessed:
                    return stored
                stored = held = None
                continue
            saved = await self._save(stored, value)
            if saved is not None:
                return saved
            stored = held = None
        raise Conflict(f"{self._noun} {id} is being changed by too many at once: try again")

    async def drop(self, id: str) -> int:
        version = int(await self._client.function("record_delete", [self._keys.record(self._noun, id)], again=True)) + 1
        await self._client.call("SREM", self._keys.index(self._noun), id, again=True)
        if self._published:
            self._publisher.put(self._noun, id, version)
        return version

    async def scan(self, held: Mapping[str, int]) -> AsyncGenerator[Page[T], None]:
        cursor = "0"
        while True:
            index = self._keys.index(self._noun)
            cursor, members = await self._client.call("SSCAN", index, cursor, "COUNT", PAGE, again=True)
            ids = [member.decode() for member in members]
            blobs = await self._blobs(ids) if ids else []
            gone = [id for id, blob in zip(ids, blobs, strict=True) if blob is None]
            if gone:  # lapsed, or being made this very moment: who makes it puts its id here once more
                await self._client.call("SREM", index, *gone, again=True)
            there = [(id, blob) for id, blob in zip(ids, blobs, strict=True) if blob is not None]
            fresh = (self._open(id, blob) for id, blob in there if held.get(id) != _version(blob))
            yield Page([id for id, _ in there], [stored for stored in fresh if stored is not None])
            if int(cursor) == 0:
                return

    async def _save(self, stored: Stored[T], value: T) -> Stored[T] | None:
        """Save on the version that was read; None when somebody else was faster."""
        id, token = stored.id, secrets.token_hex(4)
        version = max(stored.version + 1, int(self._clock.now().timestamp() * 1000))
        until = self._until(value) + GRACE if self._until else None
        arguments = (
            stored.version,
            version,
            token,
            self._codec.dump(value, stored.extra),
            int(until.timestamp() * 1000) if until else 0,
        )
        # The index entry goes before the record, in the same breath: a record that no list shows would be lost.
        before = [] if stored.version else [("SADD", self._keys.index(self._noun), id)]
        save = partial(
            self._client.functions, before, "record_save", [self._keys.record(self._noun, id)], *arguments, again=False
        )
        doubt = False
        try:
            done, answer = (await save())[-1]
        except InDoubt:
            doubt = True
            done, answer = (await save())[-1]
        if not done and doubt and answer is not None and answer.split(b" ", 2)[1] == token.encode():
            done = 1  # it was carried out, and only its reply was lost
        if not done and doubt:
            raise Unavailable(
                f"the store was cut off while {self._noun} {id} was saved: look at it before you try again"
            )
        if not done:
            return None
        faults.point("store.record.saved")
        # Once more, because a reader that saw the id before its record swept it; and the wake-up, which may be lost.
        self._publisher.put(self._noun, id, version, index=stored.version == 0, wake=self._published)
        return Stored(id, version, value, stored.extra)

    async def _read(self, id: str) -> Stored[T]:
        blob = (await self._blobs([id]))[0]
        stored = self._open(id, blob)
        if stored is None:
            raise Unavailable(
                f"{self._noun} {id} cannot be read by this version of the switchboard"
                f" ({_why(self._codec, blob)}): it was written by another one, or damaged"
            )
        return stored

    async def _blobs(self, ids: Sequence[str]) -> list[bytes | None]:
        keys = [self._keys.record(self._noun, id) for id in ids]
        return cast(list[bytes | None], await self._client.call("MGET", *keys, again=True))

    def _open(self, id: str, blob: bytes | None) -> Stored[T] | None:
        """Return what *blob* holds, None when it cannot be read, which is said once per version."""
        if blob is None:
            return Stored(id, 0, None)
        version = _version(blob)
        try:
            value, extra = self._codec.load(blob.split(b" ", 2)[2])
        except (Unreadable, IndexError) as error:
            if self._reported.get(id) != version:
                self._reported[id] = version
                log.error("a stored value cannot be read and is left out", noun=self._noun, id=id, why=str(error))
            return None
        return Stored(id, version, value, extra)


def _version(blob: bytes) -> int:
    head = blob.split(b" ", 1)[0]
    return int(head) if head.isdigit() else -1


def _why(codec: Codec[Any], blob: bytes | None) -> str:
    try:
        codec.load((blob or b"").split(b" ", 2)[2])
    except IndexError:
        return "it is not a record"
    except Unreadable as error:
        return str(error)
    return "it is readable now"
