"""One noun's records and the memory of them together: who writes through it reads its own writes."""

from collections.abc import Callable
from typing import Generic, TypeVar

from switchboard.services.ports import Records, Stored
from switchboard.services.projection import Projection

T = TypeVar("T")


class Book(Generic[T]):
    def __init__(self, records: Records[T], projection: Projection) -> None:
        self._records = records
        self._projection = projection
        self.noun = records.noun

    def peek(self, id: str) -> T | None:
        """What memory holds: no more than one wake-up old."""
        found: T | None = self._projection.one(self.noun, id)
        return found

    def all(self) -> list[T]:
        """Everything that memory holds."""
        return self._projection.all(self.noun)

    async def get(self, id: str) -> T | None:
        """What the store holds now. Raises Unavailable."""
        before = self._projection.stored(self.noun, id)
        found = await self._records.look([id])
        if not found:
            return await self._records.get(id)  # raises, with the reason why it cannot be read
        self._projection.heard(self.noun, before, found[0])
        return found[0].value

    async def change(self, id: str, decide: Callable[[T | None], T | None]) -> T | None:
        """Save what *decide* makes of the present value, once more when somebody else was faster; None leaves it.

        *decide* is pure and may raise; it may be asked several times. Durable when it returns what stands. Raises Unavailable.
        """
        stored: Stored[T] = await self._records.settle(id, decide, self._projection.stored(self.noun, id))
        self._projection.put(self.noun, stored)
        return stored.value

    async def delete(self, id: str) -> None:
        version = await self._records.drop(id)
        self._projection.apply(self.noun, id, None, version)
