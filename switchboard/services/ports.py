"""What the services need of the edges. The store, the wire and the web implement these; nothing here does any I/O."""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from switchboard.domain.output import Appended, Event

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """One value as the store holds it. Versions only grow; version 0 without a value: there is none."""

    id: str
    version: int
    value: T | None
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields that only a newer switchboard knows: kept on a save


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of everything: the ids that exist, and the values whose version was not held yet."""

    ids: Sequence[str]
    fresh: Sequence[Stored[T]]


class Records(Protocol[T]):
    """All values of one noun, each with a version. A write lands only on the version that was read.

    Every write goes into the change stream, which wakes replicas up; whoever is woken re-reads. Raises Unavailable while the store is away.
    """

    @property
    def noun(self) -> str: ...

    async def get(self, id: str) -> T | None: ...

    async def change(self, id: str, decide: Callable[[T | None], T | None]) -> T | None:
        """Load, decide, save; once more when somebody else was faster. *decide* is pure and may raise; None leaves it as it is.

        Returns what stands afterwards. Durable when it returns.
        """

    async def delete(self, id: str) -> None: ...

    async def all(self) -> list[T]:
        """Everything, for a projection's snapshot."""

    async def ids(self) -> list[str]: ...

    # The same with versions, for the projection, which keeps the newer of two.

    async def look(self, ids: Sequence[str]) -> list[Stored[T]]:
        """What stands under each id, in that order; a value that this switchboard cannot read is left out."""

    async def settle(self, id: str, decide: Callable[[T | None], T | None], held: Stored[T] | None = None) -> Stored[T]:
        """As `change`; tries what the caller holds first, and reads only when that was stale or *decide* refused it."""

    async def drop(self, id: str) -> int:
        """As `delete`; returns the version of the hole that is left."""

    def scan(self, held: Mapping[str, int]) -> AsyncGenerator[Page[T], None]:
        """Everything, a page at a time; a value whose version is in *held* is not sent again."""


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the change stream: look at this again."""

    id: str  # of the entry in the stream; resumable
    noun: str
    subject: str
    version: int = 0  # that it has at least; 0: not said


class Changes(Protocol):
    def follow(self, after: str | None = None) -> AsyncGenerator[Sequence[Change], None]:
        """Yield what changed since *after* (None: from now), as it happens, for ever. A cut link shows as Unavailable.

        Raises Conflict when *after* is no longer in the stream: take a snapshot.
        """

    async def newest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Events as their machine sent them, unread."""

    first: int
    count: int
    events: bytes


class OutputStore(Protocol):
    async def append(self, run: str, first: int, count: int, events: bytes) -> Appended:
        """Store a batch when it is the next one; durable when it returns."""

    async def next(self, run: str) -> int: ...

    async def nexts(self, runs: Sequence[str]) -> dict[str, int]: ...

    async def read(self, run: str, first: int, limit: int) -> list[Batch]:
        """Batches that hold events from *first* on, at least *limit* events or all there are."""

    async def low(self, run: str) -> int:
        """The lowest seq that is still held; equals next when nothing is."""

    async def skip(self, run: str, first: int) -> int:
        """Let the stream go on at *first* when it stands before it: what lies between is held nowhere. Returns next."""

    async def purge(self, run: str) -> None: ...


class Epochs(Protocol):
    """The store's own identity and counters."""

    async def epoch(self) -> str:
        """Random, made once per store: a changed one means that the store came back empty."""

    async def generation(self) -> int: ...

    async def next_generation(self, at_least: int = 0) -> int:
        """Count up and return; never below *at_least*, which a restored order may carry."""

    async def next_connection(self, machine: str) -> int: ...


class AuditLog(Protocol):
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
        """Add one entry, durable when it returns. With *once*, an id, there is one of that action and subject at most."""

    async def read(self, before: int | None, limit: int) -> list[Any]: ...

    async def verify(self) -> int | None:
        """Return the seq at which the chain is broken, None when it is whole."""


class OrderJournal(Protocol):
    """The orders on this replica's own disk, fsynced: what puts back an order that the store lost."""

    def write(self, order: Any) -> None: ...

    def orders(self) -> list[Any]: ...

    def forget(self, ids: Collection[str]) -> None: ...


class Decoder(Protocol):
    """Reads what the output store holds; the wire's format stays with the wire."""

    def __call__(self, batch: bytes) -> list[Event]: ...


class Notifier(Protocol):
    async def waiting(self, approval: Any) -> None:
        """Tell the outside world that something waits. Never raises; carries no power."""
