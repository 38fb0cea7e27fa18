"""The machines that are attached: hello and welcome, fencing, heartbeats, and everything that they report."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import structlog

from switchboard.clock import Clock
from switchboard.domain.approval import Approval
from switchboard.domain.errors import Conflict, Forbidden, SwitchboardError, Unavailable
from switchboard.domain.instruction import State
from switchboard.domain.machine import AgentProgram, Machine
from switchboard.domain.run import Run
from switchboard.domain.stop import Order, Receipt
from switchboard.services.approvals import Approvals, DecisionReceipt
from switchboard.services.identity import Identity, Presented, label
from switchboard.services.instructions import Instructions
from switchboard.services.line import Fenced, Line
from switchboard.services.output import Output
from switchboard.services.ports import AuditLog, Epochs
from switchboard.services.presence import Presence
from switchboard.services.projection import Book, Projection
from switchboard.services.runs import Runs
from switchboard.services.stops import Match, Stops

log = structlog.get_logger()

BEATS_MISSED = 3  # until a machine counts as away
STANDING_EVERY = 4.0  # seconds between two looks at whether attached machines still may
STRANGE_BEATS = 2  # that name another store, until the stream is closed so that a hello comes
FLIPS = 3  # more of them in FLIP_WINDOW are two copies of one machine
FLIP_WINDOW = 600.0  # seconds
STORING = 64  # reports of one machine that are stored at a time
REFUSALS = 20  # of one machine a minute that the audit is told of
ALL_LIVE_RUNS = "all-live-runs"  # a daemon that says so names every live run in its hello


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    name: str
    version: str
    boot_epoch: str
    platform: str = ""
    capabilities: tuple[str, ...] = ()
    agents: tuple[AgentProgram, ...] = ()
    orders: tuple[Order, ...] = ()
    orders_epoch: str = ""
    orders_generation: int = 0
    reports: tuple[Report, ...] = ()  # runs, approvals, receipts: what the server may be missing
    spool: Mapping[str, int] = field(default_factory=dict)  # run → the lowest seq that the machine still holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What a machine is told first; the orders go with it."""

    machine: str
    connection: int
    owner: str
    solo: bool
    heartbeat: timedelta
    watermarks: Mapping[str, int]


class Guard:
    """Ends a second stream of a machine (its upload) together with its right to take part."""

    def __init__(self) -> None:
        self._barred: asyncio.Future[SwitchboardError] = asyncio.get_running_loop().create_future()

    def bar(self, error: SwitchboardError) -> None:
        if not self._barred.done():
            self._barred.set_result(error)

    async def hold(self) -> None:
        """Wait until the machine is barred, and raise why."""
        raise await self._barred


class Fleet:
    def __init__(
        self,
        *,
        machines: Book[Machine],
        identity: Identity,
        presence: Presence,
        runs: Runs,
        approvals: Approvals,
        stops: Stops,
        instructions: Instructions,
        output: Output,
        epochs: Epochs,
        projection: Projection,
        audit: AuditLog,
        clock: Clock,
        heartbeat: timedelta,
        solo: Callable[[], bool],
    ) -> None:
        self._machines = machines
        self._identity = identity
        self._presence = presence
        self._runs = runs
        self._approvals = approvals
        self._stops = stops
        self._instructions = instructions
        self._output = output
        self._epochs = epochs
        self._projection = projection
        self._audit = audit
        self._clock = clock
        self._heartbeat = heartbeat
        self._solo = solo
        self._lines: dict[str, Line] = {}
        self._guards: defaultdict[str, set[Guard]] = defaultdict(set)
        self._boots: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=8))
        self._flips: defaultdict[str, deque[float]] = defaultdict(deque)
        self._refusals: defaultdict[str, deque[float]] = defaultdict(deque)
        self._looked_at = 0.0
        projection.listen(self._changed)
        identity.on_barred(self._barred)

    @property
    def lines(self) -> Iterable[Line]:
        return list(self._lines.values())

    # Coming and going

    async def attach(self, presented: Presented, hello: Hello) -> tuple[Line, Welcome]:
        """Let a machine in: from now on its line is told. Raises Forbidden for one that may not, Unavailable without a store."""
        machine = await self._identity.check(presented)
        await self._stops.restore(hello.orders, machine.id)
        await self._stops.refresh()
        connection = await self._epochs.next_connection(machine.id)
        await self._look_for_copies(machine, hello.boot_epoch)
        machine = await self._enter(machine, hello, connection)
        theirs = {run: low for run, low in hello.spool.items() if self._may_tell(machine.id, run)}
        watermarks = await self._output.watermarks(theirs)
        line = Line(
            machine.id, machine.name, hello.boot_epoch, connection, lambda: self._instructions.pending(machine.id)
        )
        if (older := self._lines.get(machine.id)) is not None:
            self._fence_older(older)
        self._lines[machine.id] = line
        self._presence.came(machine.id, connection)
        self._presence.holds(machine.id, hello.orders_epoch, hello.orders_generation)
        welcome = Welcome(
            machine=machine.id,
            connection=connection,
            owner=machine.owner,
            solo=self._solo(),
            heartbeat=self._heartbeat,
            watermarks=watermarks,
        )
        return line, welcome

    def detach(self, line: Line) -> None:
        if self._lines.get(line.machine) is line:
            del self._lines[line.machine]
        self._presence.left(line.machine, line.connection)

    @asynccontextmanager
    async def guarded(self, machine: str) -> AsyncIterator[Guard]:
        """Hold another stream of a machine open for as long as it may take part."""
        guard = Guard()
        self._guards[machine].add(guard)
        try:
            yield guard
        finally:
            self._guards[machine].discard(guard)
            if not self._guards[machine]:
                del self._guards[machine]

    # What machines say

    async def catch_up(self, line: Line, hello: Hello) -> None:
        """Store what a hello brought: runs before the questions about them."""
        runs = [report for report in hello.reports if isinstance(report, Run)]
        await self._record_all(line, runs)
        if ALL_LIVE_RUNS in hello.capabilities:
            living = frozenset(run.id for run in runs)
            await self._kept(line, lambda: self._runs.gone(line.machine, living), "gone")
        await self._record_all(line, [report for report in hello.reports if not isinstance(report, Run)])

    async def record(self, line: Line, report: Report) -> None:
        """Store a report, for as long as the store takes. What is refused is audited, and the line goes on."""
        await self._kept(line, lambda: self._store(line, report), type(report).__name__)

    def heartbeat(self, line: Line, epoch: str, generation: int) -> None:
        """Take a sign of life and owe its answer, which carries the generation of the orders."""
        self.heard(line)
        ours, newest, _ = self._stops.order_set()
        if epoch == ours:
            line.strange_beats = 0
            self._presence.holds(line.machine, epoch, generation)
            if generation < newest:
                line.orders_due()
        elif ours:
            line.strange_beats += 1
            if line.strange_beats > STRANGE_BEATS:
                line.close(Unavailable("the store came back as another one: say hello again"))
        line.beat_due()

    def heard(self, line: Line) -> None:
        line.heard_at = asyncio.get_running_loop().time()
        self._presence.heard(line.machine)

    # What time does

    async def tick(self) -> None:
        """Close lines that went silent, and those of machines that may no longer take part."""
        now = asyncio.get_running_loop().time()
        silence = self._heartbeat.total_seconds() * BEATS_MISSED
        for line in self.lines:
            if now - line.heard_at > silence:
                line.close(Unavailable(f"no heartbeat in {silence:.0f} s"))
        if now - self._looked_at < STANDING_EVERY:
            return
        self._looked_at = now
        there = {*self._lines, *self._guards}
        if there:
            await self._projection.refresh("machine", *there)
        for id in there:
            if (error := self._identity.barred(id)) is not None:
                self._barred(id, error)

    # Small parts

    async def _enter(self, machine: Machine, hello: Hello, connection: int) -> Machine:
        now = self._clock.now()

        def entered(found: Machine | None) -> Machine:
            known = (found or machine).checked()
            if known.connection > connection:
                raise Conflict(f"a newer connection of machine {known.name} has taken this one's place")
            return replace(
                known,
                connection=connection,
                boot_epoch=hello.boot_epoch,
                version=hello.version,
                platform=hello.platform,
                capabilities=hello.capabilities,
                agents=hello.agents,
                attached=True,
                seen_at=now,
                orders_epoch=hello.orders_epoch,
                orders_generation=hello.orders_generation,
            )

        entered_as = await self._machines.change(machine.id, entered)
        assert entered_as is not None
        return entered_as

    async def _look_for_copies(self, machine: Machine, boot_epoch: str) -> None:
        """Lock a machine that two daemons take turns in being. One daemon that reconnects keeps its boot epoch."""
        boots, flips = self._boots[machine.id], self._flips[machine.id]
        now = asyncio.get_running_loop().time()
        line = self._lines.get(machine.id)
        back_again = boot_epoch in boots and boots[-1] != boot_epoch
        took_over = line is not None and not line.ending and line.boot_epoch != boot_epoch
        if boot_epoch in boots:
            boots.remove(boot_epoch)
        boots.append(boot_epoch)
        if not (back_again or took_over):
            return
        flips.append(now)
        while flips and now - flips[0] > FLIP_WINDOW:
            flips.popleft()
        if len(flips) > FLIPS:
            flips.clear()
            why = f"two daemons took turns in being it, {FLIPS + 1} times in {FLIP_WINDOW / 60:.0f} minutes"
            await self._identity.lock(machine.id, why)
            raise Forbidden(f"machine {machine.name} is locked: {why}; revoke it and invite it anew")

    def _fence_older(self, line: Line) -> None:
        why = "a newer connection of this machine has taken its place"
        line.fence(Fenced(why, retry=True, error=Conflict(why)))

    def _barred(self, machine: str, error: SwitchboardError) -> None:
        if (line := self._lines.get(machine)) is not None:
            line.fence(Fenced(str(error), retry=False, error=error))
        for guard in self._guards.get(machine, ()):
            guard.bar(error)

    def _changed(self, noun: str, id: str) -> None:
        """Wake the lines that a change concerns, whichever replica made it."""
        if noun == "order":
            for line in self._lines.values():
                line.orders_due()
        elif noun == "instruction":
            instruction = self._projection.instruction(id)
            if instruction is not None and instruction.pending and instruction.machine in self._lines:
                self._lines[instruction.machine].instructions_due()
        elif noun == "machine" and (id in self._lines or id in self._guards):
            if (error := self._identity.barred(id)) is not None:
                self._barred(id, error)
            machine, held = self._projection.machine(id), self._lines.get(id)
            if machine is not None and held is not None and machine.connection > held.connection:
                self._fence_older(held)

    def _may_tell(self, machine: str, run: str) -> bool:
        known = self._projection.run(run)
        return known is None or known.machine == machine

    async def _record_all(self, line: Line, reports: Iterable[Report]) -> None:
        waiting = iter(list(reports))

        async def record() -> None:
            for report in waiting:
                await self.record(line, report)

        async with asyncio.TaskGroup() as tasks:
            for number in range(STORING):
                tasks.create_task(record(), name=f"hello of {line.machine} {number}")

    async def _kept(self, line: Line, store: Callable[[], Awaitable[object]], what: str) -> None:
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
                await self.refused(line.machine, what, error)
                return

    async def _store(self, line: Line, report: Report) -> None:
        match report:
            case Run():
                await self._runs.announced(line.machine, report)
            case Approval():
                await self._approvals.announced(line.machine, report)
            case DecisionReceipt():
                await self._approvals.receipt(line.machine, report)
            case Receipt():
                await self._stops.received(line.machine, report)
            case OrdersSeen():
                await self._stops.seen(line.machine, report.epoch, report.generation, report.matches)
            case InstructionReport():
                await self._instructions.report(line.machine, report.id, report.state, report.outcome)
            case Alarm():
                await self._alarm(line, report)

    async def refused(self, machine: str, what: str, error: SwitchboardError) -> None:
        """Note that a machine said what it may not say; a flood of it is noted only in part."""
        log.warning("a report was refused", machine=machine, what=what, why=str(error))
        if self._seldom(machine):
            await self._note(machine, "report.refused", what, str(error))

    async def _alarm(self, line: Line, alarm: Alarm) -> None:
        log.warning("a machine raised an alarm", machine=line.machine, kind=alarm.kind, text=alarm.text)
        if self._seldom(line.machine):
            await self._note(line.machine, f"alarm.{label(alarm.kind)}", alarm.run or line.machine, alarm.text)

    def _seldom(self, machine: str) -> bool:
        noted, now = self._refusals[machine], asyncio.get_running_loop().time()
        while noted and now - noted[0] > 60:
            noted.popleft()
        if len(noted) >= REFUSALS:
            return False
        noted.append(now)
        return True

    async def _note(self, machine: str, action: str, subject: str, reason: str) -> None:
        try:
            await self._audit.append(
                by=machine, via="daemon", action=action, subject=subject[:100], reason=reason[:1000]
            )
        except Unavailable:
            log.warning("the audit could not be told", action=action, machine=machine)
