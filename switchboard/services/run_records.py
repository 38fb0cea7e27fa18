"""The records of runs as machines announce them, and how a record ends whose machine has nothing more to say."""

from collections.abc import Callable, Set
from dataclasses import replace
from datetime import timedelta

from switchboard.clock import Clock
from switchboard.domain.errors import Forbidden
from switchboard.domain.instruction import Instruction, Kind, State
from switchboard.domain.run import Run, RunState
from switchboard.services.approvals import Approvals
from switchboard.services.book import Book
from switchboard.services.instructions import Instructions
from switchboard.services.output import Output
from switchboard.services.ports import AuditLog
from switchboard.services.projection import Projection

START_SENT_WITHIN = timedelta(minutes=1)  # of its order; later than that, a crash came between the two


class RunRecords:
    def __init__(
        self,
        *,
        runs: Book[Run],
        instructions: Instructions,
        approvals: Approvals,
        output: Output,
        projection: Projection,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._runs = runs
        self._instructions = instructions
        self._approvals = approvals
        self._output = output
        self._projection = projection
        self._audit = audit
        self._clock = clock
        instructions.on_settled(self._start_settled)
        instructions.on_settled(self._purge_settled)

    async def announced(self, machine: str, said: Run) -> Run:
        """Take a machine's word on its run. Raises Forbidden for another machine's run."""

        def decide(found: Run | None) -> Run | None:
            if found is None:
                return said if said.owner else replace(said, owner=self._owner_of(machine))
            if found.machine != machine:
                raise Forbidden(f"run {said.id} is another machine's")
            # Whose run it is was settled when it was ordered here: a machine cannot hand it to somebody who may then approve it.
            after = found.announced(replace(said, owner=found.owner or said.owner))
            return None if after is found else after

        run = await self._runs.change(said.id, decide)
        assert run is not None
        return run

    async def gone(self, machine: str, living: Set[str]) -> None:
        """Close runs that are listed as live and that their machine, which has just named all of its live ones, did not name.

        *living* grows with what the machine announces meanwhile.
        """
        reason = "it is no longer alive on its machine, and how it ended was lost"

        def still(found: Run) -> bool:
            # An ordered one has a start that is still to be delivered.
            return found.state is not RunState.ORDERED and found.id not in living

        for run in [r for r in self._projection.runs() if r.machine == machine and r.active and still(r)]:
            await self._close(run.id, RunState.INTERRUPTED, reason, still)

    async def forget(self, *runs: str) -> None:
        """Forget what hangs on runs: their output, their questions, and what they were told."""
        for run in runs:
            await self._output.purge(run)
        await self._approvals.forget_runs(frozenset(runs))
        await self._instructions.forget_runs(frozenset(runs))

    async def forget_ended(self, retention: timedelta) -> None:
        """Forget runs that ended so long ago."""
        limit = self._clock.now() - retention
        # Of a purged one the record is what keeps its content out, until its machine has forgotten it, too.
        old = [run for run in self._projection.runs() if not run.active and run.changed_at <= limit]
        ended = [run.id for run in old if not (run.purged and self._purge_pending(run))]
        await self.forget(*ended)
        for run in ended:
            await self._runs.delete(run)
            await self._audit.append(by="switchboard", via="system", action="run.forgotten", subject=run)

    async def close_unstarted(self) -> None:
        """Close ordered runs whose start is no longer on its way."""
        now = self._clock.now()
        for run in [r for r in self._projection.runs() if r.state is RunState.ORDERED]:
            if now - run.started_at < START_SENT_WITHIN:
                continue
            start = await self._instructions.known(start_id(run.id))
            if start is None or not start.pending:
                await self._refuse(
                    run.id, (start.outcome if start else "") or "its start was never sent: start it again"
                )

    async def _start_settled(self, instruction: Instruction) -> None:
        """A start that failed or lapsed closes a run of which its machine has not said a word."""
        if instruction.kind is Kind.START and instruction.state is not State.APPLIED:
            await self._refuse(instruction.run, instruction.outcome or "its machine would not start it")

    async def _purge_settled(self, instruction: Instruction) -> None:
        """Forget once more what hangs on a purged run: its machine may have told of it before it forgot."""
        if instruction.kind is Kind.PURGE and instruction.state is State.APPLIED:
            await self.forget(instruction.run)

    def _purge_pending(self, run: Run) -> bool:
        return any(i.kind is Kind.PURGE and i.run == run.id for i in self._instructions.pending(run.machine))

    async def _refuse(self, id: str, reason: str) -> None:
        await self._close(id, RunState.REFUSED, reason, lambda found: found.state is RunState.ORDERED)

    async def _close(self, id: str, state: RunState, reason: str, still: Callable[[Run], bool]) -> None:
        now = self._clock.now()

        def closed(found: Run | None) -> Run | None:
            if found is None or not found.active or not still(found):
                return None
            return replace(found, state=state, reason=reason, waits_for="", changed_at=now)

        await self._runs.change(id, closed)

    def _owner_of(self, machine: str) -> str:
        known = self._projection.machine(machine)
        return known.owner if known else ""


def start_id(run: str) -> str:
    """Return the id of the instruction that starts a run."""
    return f"start-{run}"
