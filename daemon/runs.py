"""The runs that are alive on this machine: how they begin, go on after an end, and are all brought to rest."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from daemon.attempt import TRY_AGAIN_S, Attempt
from daemon.disk import DiskFull
from daemon.domain import steps
from daemon.domain.errors import NoSuch
from daemon.domain.facts import InstructionState, RunRecord
from daemon.domain.instruction import Resume, Start
from daemon.domain.orders import held_sentence
from daemon.domain.run import LIVE, RunEvent, RunState, after
from daemon.identity import boot_id
from daemon.starting import Checked, Checks, Refused
from daemon.tools import Tools

log = structlog.get_logger()

LAST_SAVES_S = 8.0  # that the daemon's end waits for the safety copies of stopped runs


@dataclass(slots=True)
class Coming:
    """A run that is being looked at and has no processes yet: an order can meet it all the same."""

    record: RunRecord
    orders: dict[str, str] = field(default_factory=dict)  # order: why

    def stop(self, order: str, sentence: str) -> None:
        self.orders[order] = sentence


class Runs:
    def __init__(self, tools: Tools, checks: Checks) -> None:
        self._tools, self._checks = tools, checks
        self._attempts: dict[str, Attempt] = {}
        self._coming: dict[str, Coming] = {}
        self._saves: set[asyncio.Task[None]] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._closed = ""  # why nothing starts any more
        self._calm = asyncio.Event()
        self._calm.set()

    async def live(self, until: asyncio.Event) -> None:
        """Carry runs until *until* is set and the last of them is over."""
        async with asyncio.TaskGroup() as self._tasks:
            await until.wait()
            await self.calm()
            if self._saves:
                await asyncio.wait(self._saves, timeout=LAST_SAVES_S)
            for save in list(self._saves):
                save.cancel()  # the next start of the daemon does it

    @property
    def closed(self) -> bool:
        """Whether nothing starts any more, because the daemon ends."""
        return bool(self._closed)

    async def calm(self) -> None:
        """Wait until nothing is alive and nothing is starting."""
        await self._calm.wait()

    def alive(self) -> list[Attempt]:
        return list(self._attempts.values())

    def of(self, run: str) -> Attempt | None:
        return self._attempts.get(run)

    def starting(self, run: str) -> bool:
        return run in self._coming

    def stoppable(self) -> list[Attempt | Coming]:
        return [*self._attempts.values(), *self._coming.values()]

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._tasks is not None, "nothing is taken before it lives"
        return self._tasks.create_task(work, name=name)

    # Beginning.

    def start(self, id: str, start: Start) -> None:
        """Begin *start*, or say why not, under the instruction *id*."""
        coming = self._enter(self._fresh(start))
        for order in start.stopped_by:
            coming.stop(order, self._tools.stops.sentence(order))
        self.spawn(self._start(id, start), f"start of run {start.run}")

    def resume(self, id: str, resume: Resume, why: str = "") -> asyncio.Task[None]:
        """Take up an ended session again; *id* is empty when the daemon does it by itself. Done when it is begun or refused."""
        known = self._tools.journal.run(resume.run)
        self._enter(replace(known, attempt=known.attempt + 1) if known else RunRecord(resume.run))
        return self.spawn(self._resume(id, resume, why), f"resume of run {resume.run}")

    async def _start(self, id: str, start: Start) -> None:
        record = self._fresh(start)
        why = ""
        try:
            if self._tools.journal.run(start.run) is not None:
                raise Refused(f"run {start.run} is known here already")
            self._room()
            checked = await self._checks.start(start)
            record = replace(
                record,
                repo=checked.repo.repo_id,
                path=str(checked.path),
                branch=checked.repo.branch,
                base_commit=checked.repo.head,
                agent_version=checked.found.version,
                not_gated=tuple(checked.driver.capabilities.not_gated),
                abilities=checked.driver.capabilities.abilities(),
                content=self._tools.settings.content_for(checked.repo.repo_id),
            )
            self._begin(record, checked, start.prompt, "")
        except Refused as error:
            why = str(error)
        except DiskFull as error:
            why = f"nothing can be started while the disk takes nothing: {error}"
            self._tools.reports.disk_full(str(error))
        except Exception as error:  # a mistake of ours must not leave the person without an answer
            log.exception("start failed", run=start.run)
            why = f"the daemon failed to start it: {error or type(error).__name__}"
        finally:
            self._leave(start.run)
        if why and self._tools.journal.run(record.id) is None:
            refused = self._tools.reports.put_run(replace(record, state=RunState.REFUSED, reason=why))
            self._tools.stops.ended(refused)
        self._tools.reports.finish(id, InstructionState.FAILED if why else InstructionState.APPLIED, why)

    async def _resume(self, id: str, resume: Resume, why: str) -> None:
        refused = ""
        try:
            await self._take_up(resume, why)
        except (Refused, NoSuch) as error:
            refused = str(error)
        except DiskFull as error:
            refused = f"nothing can be resumed while the disk takes nothing: {error}"
            self._tools.reports.disk_full(str(error))
        except Exception as error:  # as at a start
            log.exception("resume failed", run=resume.run)
            refused = f"the daemon failed to resume it: {error or type(error).__name__}"
        finally:
            self._leave(resume.run)
        if refused:
            log.info("not resumed", run=resume.run, why=refused)
        self._tools.reports.finish(id, InstructionState.FAILED if refused else InstructionState.APPLIED, refused)

    async def _take_up(self, resume: Resume, why: str) -> None:
        record = self._tools.journal.run(resume.run)
        if record is None:
            raise NoSuch("run", resume.run[:80])
        if resume.run in self._attempts or record.state in LIVE:
            raise Refused(f"run {resume.run} is {record.state}: send it a message instead")
        if record.state is RunState.REFUSED:
            raise Refused(f"run {resume.run} was refused, so there is nothing to resume: start another")
        if not record.session_id:
            raise Refused(f"run {resume.run} ended before it had a session, so there is nothing to resume")
        self._room()
        checked = await self._checks.resume(record.agent, record.path)
        again = replace(
            record,
            attempt=record.attempt + 1,
            state=after(record.id, record.state, RunEvent.RESUMED),
            reason=why,
            waits_for="",
            branch=checked.repo.branch,
            agent_version=checked.found.version,
            containment="",
        )
        self._begin(again, checked, resume.text, record.session_id)

    def _begin(self, record: RunRecord, checked: Checked, prompt: str, resume: str) -> None:
        """Bring an attempt to life, unless an order holds it. Raises Refused, DiskFull."""
        self._room(starting=True)
        known = self._tools.journal.run(record.id)
        if record.id in self._attempts or (known is not None and known.attempt >= record.attempt):
            raise Refused(f"run {record.id} was begun by another instruction meanwhile")
        order = self._tools.stops.hold_on(record)
        coming = self._coming.setdefault(record.id, Coming(record))
        if order is not None:
            coming.stop(order.id, held_sentence(order))
            raise Refused(coming.orders[order.id])
        if coming.orders:
            raise Refused(next(iter(coming.orders.values())))
        record = self._tools.journal.put_run(record)
        attempt = Attempt(record, checked.driver, checked.found, prompt, resume, self._tools)
        self._attempts[record.id] = attempt
        self._calm.clear()
        note = "the checkout had changes of its own when the run began: its diff shows them too"
        self.spawn(self._carry(attempt, note if checked.repo.dirty and not resume else ""), f"run {record.id}")

    async def _carry(self, attempt: Attempt, note: str) -> None:
        tools, run = self._tools, attempt.record.id
        try:
            await attempt.live(note)
        except Exception as error:  # one run's mishap must not end the others: its tree is ended, and it says why
            log.exception("run failed", run=run)
            await self._write_off(attempt, f"the daemon failed while it ran: {error or type(error).__name__}")
        finally:
            tools.processes.forget(run)
            self._attempts.pop(run, None)
        tools.stops.ended(attempt.record)
        if attempt.orders:
            saving = self.spawn(tools.stops.save(attempt.orders, attempt.record), f"safety copy of run {run}")
            self._saves.add(saving)
            saving.add_done_callback(self._saves.discard)
        self._settle()

    async def _write_off(self, attempt: Attempt, why: str) -> None:
        """End what an attempt that failed has left: it is over when nothing of it lives, and not before."""
        tools, run = self._tools, attempt.record.id
        tools.questions.withdraw(tuple(a.id for a in tools.journal.open_approvals() if a.run == run), why)
        since = tools.clock.boot_ms()
        known = tools.journal.run(run) or attempt.record
        while (emptied := await tools.processes.end(run, grace_s=0, from_rung="kill", since_ms=since)).left:
            left = f"still alive after the last rung: {', '.join(emptied.left)}"
            known = tools.reports.put_run(replace(known, reason=left, waits_for=""))
            tools.stops.receipts(attempt.orders, known, emptied, left)
            await asyncio.sleep(TRY_AGAIN_S)
        known = tools.journal.run(run) or known
        if known.state in LIVE:
            tools.stops.receipts(attempt.orders, known, emptied)
            how = RunEvent.TREE_EMPTY if known.state is RunState.STOPPING else RunEvent.FAILED
            tools.reports.put_run(replace(known.take(how), reason=why, waits_for=""))

    def _room(self, *, starting: bool = False) -> None:
        if self._closed:
            raise Refused(self._closed)
        if self._tools.reports.full:
            raise Refused(f"nothing can be started while the disk takes nothing: {self._tools.reports.full}")
        alive = len(self._attempts) + (0 if starting else len(self._coming) - 1)
        if alive >= self._tools.settings.max_runs:
            raise Refused(f"{alive} runs are alive on this machine, which is the most that it takes: end one first")

    def _fresh(self, start: Start) -> RunRecord:
        return RunRecord(
            id=start.run,
            path=start.path,
            agent=start.agent,
            mode=start.mode,
            owner=start.owner,
            prompt=self._tools.reports.masked(start.prompt),
            started_boot_ms=self._tools.clock.boot_ms(),
            boot_id=boot_id(),
            started_wall_ms=self._tools.clock.wall_ms(),
            scope=start.scope,
            resume_after_crash=start.resume_after_crash,
            content=self._tools.settings.content,
        )

    # Rest.

    async def drain(self, reason: str, wait_s: float) -> bool:
        """Interrupt every run at its next idle moment; tell whether all came to one within *wait_s*."""
        self._closed = reason
        for attempt in self.alive():
            attempt.take(steps.DrainOrdered(reason))
        try:
            async with asyncio.timeout(wait_s):
                await self.calm()
        except TimeoutError:
            return False
        return True

    def halt(self, reason: str, *, close: bool = True) -> None:
        """Interrupt every run now; nothing starts any more when *close*."""
        if close:
            self._closed = reason
        for attempt in self.alive():
            attempt.take(steps.HaltOrdered(reason))

    def _enter(self, record: RunRecord) -> Coming:
        self._calm.clear()
        return self._coming.setdefault(record.id, Coming(record))

    def _leave(self, run: str) -> None:
        coming, known = self._coming.pop(run, None), self._tools.journal.run(run)
        if coming is not None and (known is None or known.attempt < coming.record.attempt):
            self._tools.stops.refuse(coming.orders, coming.record)  # it did not begin, for whatever reason
        self._settle()

    def _settle(self) -> None:
        if not self._attempts and not self._coming:
            self._calm.set()
