"""What the services need of the edges. The store, the wire and the web implement these; nothing here does any I/O."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from switchboard.domain.output import Appended, Event

T = TypeVar("T")


class Records(Protocol[T]):
    """All values of one noun, each with a version. A write lands only on the version that was read.

    Every write goes into the change stream, which wakes replicas up; whoever is woken re-reads. Raises Unavailable while the store is away.
    """

    async def get(self, id: str) -> T | None: ...

    async def change(self, id: str, decide: Callable[[T | None], T | None]) -> T | None:
        """Load, decide, save; once more when somebody else was faster. *decide* is pure and may raise; None leaves it as it is.

        Returns what stands afterwards. Durable when it returns.
        """

    async def delete(self, id: str) -> None: ...

    async def all(self) -> list[T]:
        """Everything, for a projection's snapshot."""

    async def ids(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the change stream: look at this again."""

    id: str  # of the entry in the stream; resumable
    noun: str
    subject: str


class Changes(Protocol):
    def follow(self, after: str | None = None) -> AsyncIterator[Sequence[Change]]:
        """Yield what changed since *after* (None: from now), as it happens, for ever. A cut link shows as Unavailable.

        Raises Conflict when *after* is no longer in the stream: take a snapshot.
        """

    async def newest(self) -> str: ...


class OutputStore(Protocol):
    async def append(self, run: str, first: int, count: int, events: bytes) -> Appended:
        """Store a batch when it is the next one; durable when it returns."""

    async def next(self, run: str) -> int: ...

    async def nexts(self, runs: Sequence[str]) -> dict[str, int]: ...

    async def read(self, run: str, first: int, limit: int) -> list[bytes]:
        """Batches that hold events from *first* on, at least *limit* events or all there are."""

    async def low(self, run: str) -> int:
        """The lowest seq that is still held; equals next when nothing is."""

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
        self, *, by: str, via: str, action: str, subject: str, reason: str = "", details: dict[str, Any] | None = None
    ) -> None: ...

    async def read(self, before: int | None, limit: int) -> list[Any]: ...


class OrderJournal(Protocol):
    """The orders on this replica's own disk, fsynced: what puts back an order that the store lost."""

    def write(self, order: Any) -> None: ...

    def orders(self) -> list[Any]: ...


class Decoder(Protocol):
    """Reads what the output store holds; the wire's format stays with the wire."""

    def __call__(self, batch: bytes) -> list[Event]: ...


class Notifier(Protocol):
    async def waiting(self, approval: Any) -> None:
        """Tell the outside world that something waits. Never raises; carries no power."""
