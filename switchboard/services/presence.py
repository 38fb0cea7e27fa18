"""Which machines are there, from what this replica hears and what the others wrote down.

Heartbeats stay in memory; the record follows every ten seconds, a second after the machine took new orders (a thousand take them
together, and writing that down must not slow the order), and at once when it comes or goes.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from switchboard.clock import Clock
from switchboard.domain.errors import Unavailable
from switchboard.domain.machine import Machine
from switchboard.domain.run import Run
from switchboard.services.book import Book
from switchboard.services.projection import Projection

WRITTEN_EVERY = timedelta(seconds=10)
ORDERS_WRITTEN_AFTER = timedelta(seconds=1)
WRITTEN_AT_ONCE = 250  # so that a thousand that took an order do not delay the next one
WRITERS = 32


@dataclass(slots=True)
class _Life:
    """What this replica's own stream of a machine proves."""

    connection: int
    attached: bool
    seen_at: datetime
    written_at: datetime
    orders_epoch: str = ""
    orders_generation: int = 0
    orders_at: datetime | None = None  # when it took the orders that are not written down
    due: bool = False  # write it down now


class Presence:
    def __init__(self, *, machines: Book[Machine], projection: Projection, clock: Clock, away_after: timedelta) -> None:
        self._machines = machines
        self._projection = projection
        self._clock = clock
        self._away_after = away_after
        self._lives: dict[str, _Life] = {}
        self._pulses: dict[str, datetime] = {}  # of each live run: when its keeper last answered
        projection.listen(self._changed)

    def came(self, id: str, connection: int) -> None:
        now = self._clock.now()
        self._lives[id] = _Life(connection, attached=True, seen_at=now, written_at=now)

    def heard(self, id: str) -> None:
        if life := self._lives.get(id):
            life.seen_at = self._clock.now()

    def left(self, id: str, connection: int) -> None:
        life = self._lives.get(id)
        if life is not None and life.connection == connection:
            life.attached, life.due = False, True

    def pulsed(self, id: str, silent: Mapping[str, timedelta]) -> None:
        """Note how long ago each live run of a machine last answered it: an age, because its clock is not ours."""
        now = self._clock.now()
        for run, since in silent.items():
            known = self._projection.run(run)
            if known is not None and known.machine == id and known.active:
                self._pulses[run] = now - since

    def proof_of_life(self, run: Run) -> datetime | None:
        """Return when a run last proved that it lives, its machine's word on it included; None before the first."""
        if not run.revision:
            return None  # its machine has not said a word about it
        if (pulse := self._pulses.get(run.id)) is not None:
            return max(pulse, run.changed_at)
        if not run.active or run.machine in self._lives:
            return run.changed_at
        # Another replica hears its pulses; what it writes down is its machine's.
        machine = self.machine(run.machine)
        return machine.seen_at if machine else None

    def holds(self, id: str, epoch: str, generation: int) -> bool:
        """Note which orders a machine has on its disk; say whether that is news."""
        life = self._lives.get(id)
        if life is None or (life.orders_epoch, life.orders_generation) == (epoch, generation):
            return False
        life.orders_epoch, life.orders_generation, life.orders_at = epoch, generation, self._clock.now()
        return True

    def machine(self, id: str) -> Machine | None:
        """Return a machine as it stands this moment, or None."""
        record = self._machines.peek(id)
        return None if record is None else self._live(record)

    def machines(self) -> list[Machine]:
        return sorted((self._live(record) for record in self._projection.machines()), key=lambda m: (m.name, m.id))

    def attached(self, id: str) -> bool:
        machine = self.machine(id)
        return machine is not None and machine.attached

    def need(self, id: str) -> Machine:
        """Return an attached machine. Raises Unavailable with the sentence that says since when it is away."""
        machine = self.machine(id)
        if machine is None or not machine.attached:
            raise Unavailable(away(machine, id))
        return machine

    async def flush(self) -> None:
        """Write down what changed: comings, goings and orders held at once, mere signs of life every ten seconds."""
        now = self._clock.now()
        due = [
            id
            for id, life in self._lives.items()
            # A clock that was set back must not silence a machine: any distance counts.
            if life.due
            or (life.orders_at is not None and abs(now - life.orders_at) >= ORDERS_WRITTEN_AFTER)
            or (life.attached and abs(now - life.written_at) >= WRITTEN_EVERY)
        ]
        await self._write(sorted(due, key=lambda id: self._lives[id].attached)[:WRITTEN_AT_ONCE])

    async def _write(self, ids: Iterable[str]) -> None:
        due = list(ids)
        waiting = iter(due)

        async def write() -> None:
            for id in waiting:
                life = self._lives[id]
                life.due, life.orders_at, life.written_at = False, None, self._clock.now()
                try:
                    await self._machines.change(id, lambda found, life=life: _written(found, life))  # type: ignore[misc]
                except Unavailable:
                    life.due = True
                    raise
                if not life.attached and not life.due and self._lives.get(id) is life:
                    del self._lives[id]

        async with asyncio.TaskGroup() as tasks:
            for number in range(min(WRITERS, len(due))):
                tasks.create_task(write(), name=f"presence writer {number}")

    def _changed(self, noun: str, id: str) -> None:
        if noun == "run" and id in self._pulses:
            run = self._projection.run(id)
            if run is None or not run.active:
                del self._pulses[id]

    def _live(self, record: Machine) -> Machine:
        life = self._lives.get(record.id)
        if life is not None and life.connection >= record.connection:
            return _written(record, life) or record
        if not record.attached or record.seen_at is None:
            return record
        # Another replica has it, or had it when it died: its word counts as long as it is fresh.
        fresh = abs(self._clock.now() - record.seen_at) <= self._away_after + WRITTEN_EVERY
        return record if fresh else replace(record, attached=False)


def _written(found: Machine | None, life: _Life) -> Machine | None:
    if found is None or found.connection > life.connection:
        return None
    return replace(
        found,
        connection=life.connection,
        attached=life.attached,
        seen_at=life.seen_at,
        orders_epoch=life.orders_epoch,
        orders_generation=life.orders_generation,
    )


def away(machine: Machine | None, id: str) -> str:
    if machine is None:
        return f"there is no machine {id[:40]!r}: see `switchboard machines`"
    since = f"since {machine.seen_at:%Y-%m-%d %H:%M:%S} UTC" if machine.seen_at else "and was never seen"
    return f"machine {machine.name} is away {since}: start its daemon, or choose another machine"
