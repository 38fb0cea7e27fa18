"""The audit chain in a stream: append-only, with one head that two replicas cannot both lengthen."""

import asyncio
import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from switchboard import faults
from switchboard.clock import Clock
from switchboard.domain.audit import Entry
from switchboard.domain.errors import Unavailable
from switchboard.store.client import Client
from switchboard.store.codec import Codec, Unreadable
from switchboard.store.keys import Keys

ROUNDS = 200
PAGE = 500
MOST = 200  # entries a call


@dataclass(frozen=True, slots=True)
class _Draft:
    words: dict[str, Any]
    mark: str  # the key that says that it is there; "" for what may be there many times
    written: "asyncio.Future[None]"


class RedisAudit:
    def __init__(self, client: Client, keys: Keys, clock: Clock) -> None:
        self._client = client
        self._keys = keys
        self._clock = clock
        self._codec = Codec(Entry)
        self._head = ""  # "seq hash" as far as this replica knows
        self._waiting: list[_Draft] = []
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(
        self,
        *,
        by: str,
        via: str,
        action: str,
        subject: str,
        reason: str = "",
        details: dict[str, Any] | None = None,
        once: str = "",
    ) -> None:
        """Add one entry; durable when it returns. Entries that wait together are written together. Raises Unavailable.

        With *once*, the id of what happened, there is one entry of that action and subject, however often it is added.
        """
        words = {"by": by, "via": via, "action": action, "subject": subject, "reason": reason}
        draft = {name: _text(word) for name, word in words.items()} | {"details": _plain(details or {})}
        mark = self._keys.audited(_text(action), _text(subject), _text(once)) if once else ""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Draft(draft, mark, written))
        async with self._writing:
            while not written.done():
                some, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                task = asyncio.create_task(self._write_out(some), name="audit")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                # A caller that is cancelled must not take the others' entries with it.
                await asyncio.shield(task)
        await written

    async def _write_out(self, some: list[_Draft]) -> None:
        try:
            await self._write(some)
        except BaseException as error:
            for draft in some:
                if not draft.written.done():
                    text = str(error) if isinstance(error, Unavailable) else "the audit entry was not written"
                    draft.written.set_exception(Unavailable(text))
                    draft.written.exception()  # looked at here: a caller that has gone must not leave a warning behind
            if not isinstance(error, Unavailable):
                raise
        else:
            faults.point("store.audit.appended")
            for draft in some:
                if not draft.written.done():
                    draft.written.set_result(None)

    async def _write(self, drafts: list[_Draft]) -> None:
        """Lengthen the chain by *drafts*, of each mark by the first, and only where there is none yet."""
        firsts: dict[str, _Draft] = {}
        drafts = [draft for draft in drafts if not draft.mark or firsts.setdefault(draft.mark, draft) is draft]
        for _ in range(ROUNDS):
            if not drafts:
                return
            at, (seq, previous) = self._clock.now(), _parts(self._head)
            entries: list[Entry] = []
            for draft in drafts:
                seq += 1
                entry = Entry(seq=seq, at=at, previous=previous, **draft.words)
                entry = replace(entry, hash=entry.sealed())
                previous = entry.hash
                entries.append(entry)
            head = f"{seq} {previous}"
            lines = [part for entry in entries for part in (entry.seq, self._codec.dump(entry))]
            keys = [self._keys.audit, self._keys.audit_head, *(draft.mark for draft in drafts if draft.mark)]
            done, found, *there = await self._client.function(
                "audit_append", keys, self._head, head, *lines, again=True
            )
            self._head = found.decode()
            if done:
                return
            drafts = [draft for draft in drafts if draft.mark.encode() not in there]
        raise Unavailable("too many replicas write the audit at once: try again")

    async def read(self, before: int | None, limit: int) -> list[Entry]:
        """Return up to *limit* entries below seq *before*, newest first; one that cannot be read is shown as such."""
        if limit < 1 or (before is not None and before <= 1):
            return []
        start = "+" if before is None else f"({min(before, 2**53)}-0"
        answer = await self._client.call("XREVRANGE", self._keys.audit, start, "-", "COUNT", limit, again=True)
        return [self._entry(id, fields) for id, fields in answer]

    async def verify(self) -> int | None:
        """Return the seq at which the chain is broken, None when it is whole."""
        head = (await self._client.call("GET", self._keys.audit_head, again=True) or b"").decode()
        seq, previous, start = 0, "", "-"
        while answer := await self._client.call("XRANGE", self._keys.audit, start, "+", "COUNT", PAGE, again=True):
            for id, fields in answer:
                entry, seq = self._entry(id, fields), seq + 1
                if id != f"{seq}-0".encode() or entry.seq != seq:
                    return seq
                if entry.previous != previous or entry.hash != entry.sealed():
                    return seq
                previous = entry.hash
            start = "(" + answer[-1][0].decode()
        known, hash = _parts(head)
        # Entries may have come after the head was read; fewer than it names are a cut tail.
        return seq + 1 if known > seq or (known == seq and hash != previous) else None

    def _entry(self, id: bytes, fields: list[bytes]) -> Entry:
        seq = int(id.split(b"-")[0])
        with contextlib.suppress(Unreadable, IndexError):
            return self._codec.load(fields[1])[0]
        return Entry(seq=seq, at=self._clock.now(), by="", via="", action="audit.damaged", subject=str(seq))


def _parts(head: str) -> tuple[int, str]:
    seq, _, hash = head.partition(" ")
    return int(seq or 0), hash


def _plain(value: Any) -> Any:
    """Return *value* as it will be read back, so that the hash holds: JSON values, and text that is Unicode."""
    match value:
        case str():
            return _text(str(value))  # an enum's member becomes its value
        case bytes():
            return value.decode("utf-8", "replace")
        case None | bool():
            return value
        case int() if abs(value) < 2**53:
            return int(value)
        case float() if math.isfinite(value):
            return value
        case Mapping():
            return {_text(str(name)): _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case set() | frozenset():
            return sorted((_plain(inner) for inner in value), key=str)
        case datetime():
            return value.isoformat()
    return _text(str(value))


def _text(word: str) -> str:
    return word.encode("utf-8", "replace").decode()
