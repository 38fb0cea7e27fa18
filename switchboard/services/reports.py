"""What machines report, and how each report is kept: stored for as long as the store takes, or refused and audited."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import dataclass

import structlog

from switchboard.domain.approval import Approval
from switchboard.domain.errors import SwitchboardError, Unavailable
from switchboard.domain.instruction import State
from switchboard.domain.run import Run
from switchboard.domain.stop import Receipt
from switchboard.services.approvals import Approvals, DecisionReceipt
from switchboard.services.identity import label
from switchboard.services.instructions import Instructions
from switchboard.services.ports import AuditLog
from switchboard.services.proofs import Match
from switchboard.services.runs import Runs
from switchboard.services.stops import Stops

log = structlog.get_logger()

STORING = 64  # reports of one machine that are stored at a time
NOTED = 20  # refusals and alarms of one machine that the audit is told of, a minute


@dataclass(frozen=True, slots=True)
class OrdersSeen:
    epoch: str
    generation: int
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class InstructionReport:
    id: str
    state: State
    outcome: str


@dataclass(frozen=True, slots=True)
class Alarm:
    kind: str
    text: str
    run: str


Report = Run | Approval | DecisionReceipt | OrdersSeen | Receipt | InstructionReport | Alarm


class Reports:
    def __init__(
        self, *, runs: Runs, approvals: Approvals, stops: Stops, instructions: Instructions, audit: AuditLog
    ) -> None:
        self._runs = runs
        self._approvals = approvals
        self._stops = stops
        self._instructions = instructions
        self._audit = audit
        self._noted: defaultdict[str, deque[float]] = defaultdict(deque)

    async def record(self, machine: str, report: Report) -> None:
        """Store a report. What is refused is audited, and the machine goes on."""
        await self._kept(machine, lambda: self._store(machine, report), type(report).__name__)

    async def record_all(self, machine: str, reports: Iterable[Report]) -> None:
        """Store many at once, a bounded number at a time."""
        due = list(reports)
        waiting = iter(due)

        async def record() -> None:
            for report in waiting:
                await self.record(machine, report)

        async with asyncio.TaskGroup() as tasks:
            for number in range(min(STORING, len(due))):
                tasks.create_task(record(), name=f"hello of {machine} {number}")

    async def gone(self, machine: str, living: Set[str]) -> None:
        """Close the runs that a machine, which has named all that live, did not name; *living* may grow meanwhile."""
        await self._kept(machine, lambda: self._runs.gone(machine, living), "hello")

    async def refused(self, machine: str, what: str, error: SwitchboardError) -> None:
        """Note that a machine said what it may not say; a flood of it is noted only in part."""
        log.warning("a report was refused", machine=machine, what=what, why=str(error))
        await self._note(machine, "report.refused", what, str(error))

    async def _kept(self, machine: str, store: Callable[[], Awaitable[object]], what: str) -> None:
        pause = 0.1
        while True:
            try:
                await store()
                return
            except Unavailable:
                # Unacknowledged until the store is back; the daemon holds it meanwhile, and sends it again if we die.
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
            except SwitchboardError as error:
                await self.refused(machine, what, error)
                return

    async def _store(self, machine: str, report: Report) -> None:
        match report:
            case Run():
                await self._runs.announced(machine, report)
            case Approval():
                await self._approvals.announced(machine, report)
            case DecisionReceipt():
                await self._approvals.receipt(machine, report)
            case Receipt():
                await self._stops.received(machine, report)
            case OrdersSeen():
                await self._stops.seen(machine, report.epoch, report.generation, report.matches)
            case InstructionReport():
                await self._instructions.report(machine, report.id, report.state, report.outcome)
            case Alarm():
                log.warning("a machine raised an alarm", machine=machine, kind=report.kind, text=report.text)
                await self._note(machine, f"alarm.{label(report.kind)}", report.run or machine, report.text)

    async def _note(self, machine: str, action: str, subject: str, reason: str) -> None:
        noted, now = self._noted[machine], asyncio.get_running_loop().time()
        while noted and now - noted[0] > 60:
            noted.popleft()
        if len(noted) >= NOTED:
            return
        noted.append(now)
        try:
            await self._audit.append(
                by=machine, via="daemon", action=action, subject=subject[:100], reason=reason[:1000]
            )
        except Unavailable:
            log.warning("the audit could not be told", action=action, machine=machine)
