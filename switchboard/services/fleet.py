"""The machines that are attached: hello and welcome, fencing, heartbeats, and everything that they report."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from switchboard.clock import Clock
from switchboard.domain.errors import Conflict, Forbidden, SwitchboardError, Unavailable
from switchboard.domain.instruction import Instruction, Kind
from switchboard.domain.machine import AgentProgram, Machine
from switchboard.domain.run import Run
from switchboard.domain.stop import Order
from switchboard.services.approvals import Approvals
from switchboard.services.book import Book
from switchboard.services.copies import Copies
from switchboard.services.guard import Guard, Shown
from switchboard.services.identity import Identity, Presented
from switchboard.services.instructions import Instructions
from switchboard.services.line import Fenced, Line
from switchboard.services.output import Output
from switchboard.services.ports import AuditLog, Epochs
from switchboard.services.presence import Presence
from switchboard.services.projection import Projection
from switchboard.services.reports import Report, Reports
from switchboard.services.runs import Runs
from switchboard.services.stops import Stops

BEATS_MISSED = 3  # until a machine counts as away
STANDING_EVERY = 4.0  # seconds between two looks at whether attached machines still may
STRANGE_BEATS = 2  # that name another store, until the stream is closed so that a hello comes
NEWER = "a newer connection of this machine has taken this one's place"
ALL_LIVE_RUNS = "all-live-runs"  # said in a hello that names every run which is alive on its machine


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
        self._reports = Reports(runs=runs, approvals=approvals, stops=stops, instructions=instructions, audit=audit)
        self._stops = stops
        self._instructions = instructions
        self._output = output
        self._epochs = epochs
        self._projection = projection
        self._clock = clock
        self._heartbeat = heartbeat
        self._solo = solo
        self._lines: dict[str, Line] = {}
        self._shown: dict[Line, Shown] = {}
        self._guards: defaultdict[str, set[Guard]] = defaultdict(set)
        self._catching_up: dict[Line, set[str]] = {}  # runs named on a line whose hello is still being stored
        self._copies = Copies()
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
        await self._stops.restore(hello.orders, machine.id, hello.orders_epoch)
        await self._stops.refresh()
        connection = await self._epochs.next_connection(machine.id)
        await self._look_for_copies(machine, hello.boot_epoch)
        machine = await self._enter(machine, hello, connection, presented.generation)
        theirs = {run: low for run, low in hello.spool.items() if self._keeps(machine.id, run)}
        watermarks = await self._output.watermarks(theirs)
        line = Line(machine.id, machine.name, hello.boot_epoch, connection, lambda: self._due(machine.id))
        # An older line was fenced when the record took this connection's number; a newer one may have come meanwhile.
        if (other := self._lines.get(machine.id)) is not None and other.connection > connection:
            raise Conflict(NEWER)
        self._lines[machine.id] = line
        self._shown[line] = Shown.now(presented, self._clock.now())
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
        self._shown.pop(line, None)
        self._presence.left(line.machine, line.connection)

    @asynccontextmanager
    async def guarded(self, presented: Presented) -> AsyncIterator[Guard]:
        """Hold another stream of a machine open for as long as it may take part. Raises Unavailable for an old certificate."""
        await self._identity.check_newest(presented)
        machine, guard = presented.machine, Guard(Shown.now(presented, self._clock.now()))
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
        living = self._catching_up[line] = {run.id for run in runs}
        try:
            await self._reports.record_all(line.machine, runs)
            if ALL_LIVE_RUNS in hello.capabilities:
                await self._reports.gone(line.machine, living)
            await self._reports.record_all(
                line.machine, [report for report in hello.reports if not isinstance(report, Run)]
            )
        finally:
            del self._catching_up[line]

    async def record(self, line: Line, report: Report) -> None:
        """Store a report, for as long as the store takes."""
        if isinstance(report, Run) and line in self._catching_up:
            self._catching_up[line].add(report.id)  # it began after the hello was said
        await self._reports.record(line.machine, report)

    async def refused(self, machine: str, what: str, error: SwitchboardError) -> None:
        """Note that a machine said what it may not say."""
        await self._reports.refused(machine, what, error)

    def heartbeat(self, line: Line, epoch: str, generation: int, silent: Mapping[str, timedelta]) -> None:
        """Take a sign of life, and how long each live run has been *silent*; owe its answer, which carries the generation of the orders."""
        self.heard(line)
        self._presence.pulsed(line.machine, silent)
        ours, newest, _ = self._stops.order_set()
        if epoch == ours:
            line.strange_beats = 0
            self._presence.holds(line.machine, epoch, generation)
            if generation < newest:
                line.orders_due(all=True)
        elif ours:
            line.strange_beats += 1
            if line.strange_beats > STRANGE_BEATS:
                line.close(Unavailable("the store came back as another one: say hello again"))
        line.beat_due()

    def orders_seen(self, line: Line, epoch: str, generation: int) -> None:
        """Note that a machine has these orders on its disk, and that they mean none of its runs."""
        self._presence.holds(line.machine, epoch, generation)

    def heard(self, line: Line) -> None:
        line.heard_at = asyncio.get_running_loop().time()
        self._presence.heard(line.machine)

    # What time does

    async def tick(self) -> None:
        """Close lines that went silent, and all streams of machines that may no longer take part, or not by what they showed."""
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
        for line, shown in list(self._shown.items()):
            if (error := self._lapsed(shown)) is not None:
                line.close(error)
        for guard in [guard for guards in self._guards.values() for guard in guards]:
            if (error := self._lapsed(guard.shown)) is not None:
                guard.bar(error)

    # Small parts

    def _lapsed(self, shown: Shown) -> SwitchboardError | None:
        """Say why a stream must be dialled again, by the certificate of this moment."""
        if asyncio.get_running_loop().time() > shown.expires_at:
            return Unavailable("the certificate of this connection has expired: renew it and dial again")
        return self._identity.superseded(shown.presented)

    async def _enter(self, machine: Machine, hello: Hello, connection: int, generation: int) -> Machine:
        now = self._clock.now()

        def entered(found: Machine | None) -> Machine:
            known = (found or machine).checked()
            if known.connection > connection:
                raise Conflict(NEWER)
            return replace(
                known,
                taken_up=max(known.taken_up, generation),
                connection=connection,
                boot_epoch=hello.boot_epoch,
                version=hello.version,
                platform=hello.platform,
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
        line = self._lines.get(machine.id)
        live = line.boot_epoch if line is not None and not line.ending else None
        if why := self._copies.came(machine.id, boot_epoch, live):
            await self._identity.lock(machine.id, why)
            raise Forbidden(f"machine {machine.name} is locked: {why}; revoke it and invite it anew")

    def _due(self, machine: str) -> list[Instruction]:
        """Return what a machine has not reported on; a start says which orders were given while it was on its way."""
        return [
            replace(each, body={**each.body, "stopped_by": self._stops.overtook(each.run)})
            if each.kind is Kind.START
            else each
            for each in self._instructions.pending(machine)
        ]

    def _line(self, machine: str) -> list[Line]:
        return [self._lines[machine]] if machine in self._lines else []

    def _fence_older(self, line: Line) -> None:
        line.fence(Fenced(NEWER, retry=True, error=Conflict(NEWER)))

    def _barred(self, machine: str, error: SwitchboardError) -> None:
        if (line := self._lines.get(machine)) is not None:
            line.fence(Fenced(str(error), retry=False, error=error))
        for guard in self._guards.get(machine, ()):
            guard.bar(error)

    def _changed(self, noun: str, id: str) -> None:
        """Wake the lines that a change concerns, whichever replica made it."""
        if noun == "order":
            for told in self._lines.values():
                told.orders_due()
        elif noun == "instruction":
            instruction = self._projection.instruction(id)
            for line in self._lines.values() if instruction is None else self._line(instruction.machine):
                if instruction is not None and instruction.pending:
                    line.instructions_due()
                else:
                    line.settled(id)
        elif noun == "machine" and (id in self._lines or id in self._guards):
            if (error := self._identity.barred(id)) is not None:
                self._barred(id, error)
            machine, held = self._projection.machine(id), self._lines.get(id)
            if machine is not None and held is not None and machine.connection > held.connection:
                self._fence_older(held)

    def _keeps(self, machine: str, run: str) -> bool:
        """Whether a run's output is kept here, and this machine's to send."""
        known = self._projection.run(run)
        return known is None or (known.machine == machine and not known.purged)
