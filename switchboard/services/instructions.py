"""What daemons are told to do: each a record that is delivered again until its machine reports on it."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from switchboard import faults
from switchboard.clock import Clock
from switchboard.domain.errors import Conflict, Forbidden, NotFound
from switchboard.domain.instruction import LAPSES_AFTER, MOVES, Instruction, Kind, State
from switchboard.services.book import Book
from switchboard.services.projection import Projection

log = structlog.get_logger()

KEPT = timedelta(hours=24)  # after it settled, so that people can look up what became of it
# Kinds whose body is somebody's words: it goes as soon as nobody needs it for a delivery.
WORDY = frozenset({Kind.START, Kind.MESSAGE, Kind.RESUME, Kind.DECISION})

Settled = Callable[[Instruction], Awaitable[None]]


class Instructions:
    def __init__(self, *, instructions: Book[Instruction], projection: Projection, clock: Clock) -> None:
        self._instructions = instructions
        self._projection = projection
        self._clock = clock
        self._settled: list[Settled] = []

    def on_settled(self, listener: Settled) -> None:
        """Call *listener* whenever an instruction was applied, failed or lapsed."""
        self._settled.append(listener)

    async def order(
        self,
        kind: Kind,
        machine: str,
        run: str,
        body: Mapping[str, Any],
        *,
        by: str,
        reason: str = "",
        id: str | None = None,
        lapses_in: timedelta = LAPSES_AFTER,
        again: bool = False,
    ) -> Instruction:
        """Write an instruction down, which wakes its machine's stream. The same *id* again changes nothing, unless *again* says so."""
        now = self._clock.now()
        asked = Instruction(
            id=id or f"i-{secrets.token_hex(8)}",
            machine=machine,
            kind=kind,
            run=run,
            body=body,
            by=by,
            reason=reason,
            at=now,
            lapses_at=now + lapses_in,
        )

        def decide(found: Instruction | None) -> Instruction | None:
            if found is None:
                return asked
            if (found.machine, found.kind, found.run) != (machine, kind, run):
                raise Conflict(f"the id {found.id} is taken by another instruction: send a fresh one")
            return asked if again and not found.pending else None

        ordered = await self._instructions.change(asked.id, decide)
        assert ordered is not None
        faults.point("service.instruction.saved")
        return ordered

    async def get(self, id: str) -> Instruction:
        found = self._instructions.peek(id) or await self._instructions.get(id)
        if found is None:
            raise NotFound(f"no instruction {id[:100]!r}: settled ones are kept for a day")
        return found

    async def known(self, id: str) -> Instruction | None:
        return await self._instructions.get(id)

    def pending(self, machine: str) -> list[Instruction]:
        """What a machine has not reported on, oldest first."""
        now = self._clock.now()
        waiting = (i for i in self._projection.instructions(machine) if i.pending and i.lapses_at > now)
        return sorted(waiting, key=lambda i: (i.at, i.id))

    async def report(self, machine: str, id: str, state: State, outcome: str = "") -> None:
        """Take a machine's word on an instruction. A repeat, or a word on one that is forgotten, changes nothing."""

        def decide(found: Instruction | None) -> Instruction | None:
            if found is None:
                return None
            if found.machine != machine:
                raise Forbidden(f"instruction {id} is another machine's")
            if state is found.state or state not in MOVES.get(found.state, frozenset()):
                return None
            return _slim(found.take(state, outcome))

        await self._change(id, decide)

    async def lapse_due(self) -> None:
        """Let lapse what nobody could deliver in time."""
        now = self._clock.now()
        for due in [i for i in self._instructions.all() if i.pending and i.lapses_at <= now]:
            await self._change(due.id, lambda found: _lapsed(found, now))

    async def trim(self) -> None:
        """Forget what settled long ago."""
        now = self._clock.now()
        for old in [i for i in self._instructions.all() if not i.pending and i.lapses_at + KEPT <= now]:
            await self._instructions.delete(old.id)

    async def forget(self, id: str) -> None:
        await self._instructions.delete(id)

    async def forget_runs(self, runs: frozenset[str]) -> None:
        for theirs in [i for i in self._instructions.all() if i.run in runs and i.kind is not Kind.PURGE]:
            await self._instructions.delete(theirs.id)

    async def _change(self, id: str, decide: Callable[[Instruction | None], Instruction | None]) -> None:
        changed = False

        def noted(found: Instruction | None) -> Instruction | None:
            nonlocal changed
            after = decide(found)
            changed = after is not None
            return after

        settled = await self._instructions.change(id, noted)
        if settled is None or not changed or settled.pending:
            return
        for listener in self._settled:
            await listener(settled)


def _lapsed(found: Instruction | None, now: datetime) -> Instruction | None:
    if found is None or not found.pending or found.lapses_at > now:
        return None
    return _slim(found.take(State.LAPSED, "its machine did not take it in time"))


def _slim(instruction: Instruction) -> Instruction:
    if instruction.pending or instruction.kind not in WORDY:
        return instruction
    return replace(instruction, body={})
