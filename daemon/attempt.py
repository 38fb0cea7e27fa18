"""One attempt of a run, carried out: what the supervisor decides is done here, and what happens is told to it."""

import asyncio
import signal
from collections import deque
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never

import structlog

from daemon import faults
from daemon.agents.driver import AgentGone, AgentUnusable, Driver, Found, Session, Spec
from daemon.domain import steps
from daemon.domain.agent import Answer, Ended, Output, OutputKind, Question, Ready, TurnEnded, TurnStarted
from daemon.domain.facts import InstructionState, RunRecord
from daemon.domain.supervisor import Supervised
from daemon.process import Emptied, Keeper, KeeperFailed
from daemon.questions import Asking
from daemon.tools import Tools

log = structlog.get_logger()

KEEPER_S = 60.0  # for the keeper to call in; a loaded machine is slow
LEAVE_S = 15.0  # for an agent to take its leave, or for a driver to let go of a dead one
WORDS = 32 * 1024  # characters of the agent's last words, longer than any secret: they are masked before they are cut
LAST_WORDS_S = 2.0  # for a driver to tell of an end that the keeper has seen
TRY_AGAIN_S = 2.0  # between two looks at what survived a kill


class Attempt:
    def __init__(self, record: RunRecord, driver: Driver, found: Found, prompt: str, resume: str, tools: Tools) -> None:
        """*prompt* may be empty on a resume; *resume* is the session to take up again."""
        self.record = record
        self._driver, self._found, self._prompt, self._resume, self._tools = driver, found, prompt, resume, tools
        self._supervised = Supervised(
            record.id, round(tools.settings.idle_after_s * 1000), state=record.state, prompted=bool(prompt)
        )
        self._inbox: deque[steps.Event] = deque()
        self._taking = False
        self._session: Session | None = None
        self._keeper: Keeper | None = None
        self._emptied: Emptied | None = None
        self._walking = False
        self._why: deque[str] = deque()
        self._why_block = ""
        self._tasks: asyncio.TaskGroup | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._idling: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        tools.outputs.open(record.id, record.attempt, record.content)

    @property
    def over(self) -> bool:
        return self._supervised.over

    @property
    def ending(self) -> bool:
        return self._supervised.ending

    @property
    def orders(self) -> tuple[str, ...]:
        """The stop orders that ended it."""
        return tuple(self._supervised.orders)

    def silent_ms(self) -> int | None:
        """Return how long its keeper has been silent; None while it has none."""
        return self._keeper.silent_ms() if self._keeper is not None and not self._keeper.lost.is_set() else None

    async def live(self, note: str = "") -> None:
        """Carry the attempt from its start to its last process; *note* is said in its output first."""
        if note:
            self.say(note)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self.take(steps.StartOrdered())
            await self._over.wait()
            await self._let_go()
            for task in self._running:
                task.cancel()

    def stop(self, order: str, sentence: str) -> None:
        if order not in self._supervised.orders:
            self.say(sentence)
            self.take(steps.StopMatched(order, sentence))

    def say(self, text: str) -> None:
        """Put a word of the daemon's own into the run's output."""
        self._tools.outputs.say(self.record.id, Output(OutputKind.NOTICE, text))

    def take(self, event: steps.Event) -> None:
        """Tell the supervisor, and do what it says; an event that comes meanwhile, or before it lives, waits its turn."""
        self._inbox.append(event)
        if self._taking or self._tasks is None:
            return
        self._taking = True
        try:
            while self._inbox:
                for instruction in self._supervised.take(self._inbox.popleft(), self._tools.clock.boot_ms()):
                    self._do(instruction)
        finally:
            self._taking = False

    def _do(self, instruction: steps.Instruction) -> None:
        tools = self._tools
        match instruction:
            case steps.Announce(state, reason, waits_for):
                self.record = tools.reports.put_run(
                    replace(self.record, state=state, reason=reason, waits_for=waits_for)
                )
            case steps.Spawn():
                self._spawn("start", self._start())
            case steps.Say(id, text):
                self._spawn("message", self._say(id, text))
            case steps.InterruptTurn(id):
                self._spawn("interrupt", self._interrupt(id))
            case steps.CloseSession():
                self._spawn("leave", self._close())
            case steps.WalkLadder(rung):
                if not self._walking:
                    self._walking = True
                    self._spawn("stop", self._walk(rung))
            case steps.Withdraw(asks, cause):
                tools.questions.withdraw(asks, cause)
            case steps.Applied(id):
                tools.reports.finish(id, InstructionState.APPLIED, "")
            case steps.Failed(id, reason):
                tools.reports.finish(id, InstructionState.FAILED, reason)
            case steps.WakeAt(boot_ms):
                if self._idling is not None:
                    self._idling.cancel()
                self._idling = self._spawn("idle", self._wake(boot_ms))
            case steps.GiveReceipts(orders, _, reason):
                assert self._emptied is not None, "receipts come after the look"
                tools.stops.receipts(orders, self.record, self._emptied, reason)
            case steps.SaveWork():
                pass  # the runner sees to it: it outlives the attempt
            case _:
                assert_never(instruction)
        if self._supervised.over:
            self._over.set()

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None, "nothing happens before it lives"
        task = self._tasks.create_task(work, name=f"{name} of run {self.record.id}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    # Starting.

    async def _start(self) -> None:
        tools, run = self._tools, self.record.id
        try:
            assert self._found.path is not None, "only an agent that was found is started"
            launch = tools.processes.launch(run, self.record.attempt, self._found.path)
        except KeeperFailed as error:
            self.take(steps.StartFailed(str(error)))
            return
        self._spawn("keeper", self._keep())
        spec = Spec(run, Path(self.record.path), self._prompt, self.record.mode, launch, self._resume)
        if self._prompt:
            tools.outputs.say(run, Output(OutputKind.PROMPT, self._prompt))
        try:
            session = await self._driver.start(spec, self._ask)
        except AgentUnusable as error:
            self.take(steps.StartFailed(str(error)))
            return
        except Exception as error:  # a driver's own mistake must end the run with a sentence, not the daemon
            log.exception("driver failed at start", run=run)
            self.take(steps.StartFailed(f"{self._driver.name} could not be started: {error or type(error).__name__}"))
            return
        faults.point("runner.started")
        self._session = session
        self._spawn("listen", self._listen(session))

    async def _keep(self) -> None:
        try:
            self._keeper = await self._tools.processes.keeper(self.record.id, KEEPER_S)
        except KeeperFailed as error:
            self.take(steps.StartFailed(str(error)))
            return
        self.record = replace(self.record, containment=self._keeper.grade)
        self.take(steps.KeeperUp())
        self._spawn("agent", self._outlive(self._keeper))
        await self._keeper.lost.wait()
        self.take(
            steps.KeeperLost(
                "its keeper was killed or stopped, so the run was ended: nothing may go on without its gate"
            )
        )

    async def _outlive(self, keeper: Keeper) -> None:
        """See the agent's end, which its driver may never hear of: an escapee can hold the agent's pipes open."""
        code = await asyncio.shield(keeper.exited)
        await asyncio.sleep(
            LAST_WORDS_S
        )  # the driver's own word, after all that the agent said, comes first if it comes
        self.take(steps.AgentEnded(self._how(Ended(f"{self._driver.name} ended with code {code}" if code else ""))))

    async def _listen(self, session: Session) -> None:
        tools, run = self._tools, self.record.id
        async for event in session.events():
            tools.questions.spoke(run)
            match event:
                case Output():
                    self._remember(event)
                    tools.outputs.say(run, event)
                case Ready():
                    said = replace(
                        self.record,
                        session_id=event.session or self.record.session_id,
                        agent_version=event.version or self.record.agent_version,
                        permission_mode=event.permission_mode or self.record.permission_mode,
                        not_gated=event.not_gated or self.record.not_gated,
                    )
                    self.record = tools.reports.put_run(said)
                    self.take(steps.SessionReady())
                case TurnStarted():
                    self.take(steps.TurnBegan())
                case TurnEnded():
                    tools.outputs.rest(run)
                    self.take(steps.TurnOver(event.ok, event.reason, event.interrupted))
                case Ended():
                    tools.outputs.rest(run)
                    self.take(steps.AgentEnded(self._how(event)))

    def _how(self, ended: Ended) -> str:
        """Return why the agent is gone, "" when it went in good order. The keeper saw its end, the driver only its silence."""
        exited = self._keeper.exited if self._keeper is not None else None
        code = exited.result() if exited is not None and exited.done() else None
        if ended.reason and ended.code is None and code is not None and code < 0:
            return f"{self._driver.name} was killed by signal {-code} ({signal.strsignal(-code)})"
        return ended.reason

    def _remember(self, output: Output) -> None:
        """Keep the agent's last words: they say why it asks."""
        if output.kind is not OutputKind.MESSAGE:
            return
        if output.block != self._why_block:
            self._why.clear()
            self._why_block = output.block
        self._why.append(output.text)
        while sum(map(len, self._why)) - len(self._why[0]) > WORDS:
            self._why.popleft()

    # Its questions.

    async def _ask(self, question: Question) -> Answer:
        asking = Asking(
            run=self.record.id,
            attempt=self.record.attempt,
            cwd=self.record.path,
            content=self.record.content,
            edits_input=self._driver.capabilities.edits_input,
            why="".join(self._why),
        )
        return await self._tools.questions.ask(
            asking,
            question,
            opened=lambda id: self.take(steps.Asked(id)),
            settled=lambda id: self.take(steps.Settled(id)),
        )

    # What people tell it.

    async def _say(self, id: str, text: str) -> None:
        if self._session is None:
            self._tools.reports.finish(id, InstructionState.FAILED, "the session is not up")
            return
        self._tools.outputs.say(self.record.id, Output(OutputKind.PROMPT, text))
        await self._told(id, self._session.send(text))

    async def _interrupt(self, id: str) -> None:
        if self._session is None:
            self._tools.reports.finish(id, InstructionState.FAILED, "the session is not up yet: stop the run instead")
            return
        await self._told(id, self._session.interrupt())

    async def _told(self, id: str, telling: Coroutine[Any, Any, None]) -> None:
        try:
            await telling
        except asyncio.CancelledError:
            self._tools.reports.finish(id, InstructionState.FAILED, f"run {self.record.id} ended first")
            raise
        except AgentGone as error:
            self._tools.reports.finish(id, InstructionState.FAILED, str(error) or "the agent is no longer there")
        else:
            self._tools.reports.finish(id, InstructionState.APPLIED, "")

    async def _wake(self, boot_ms: int) -> None:
        # Asked of the boot clock again and again: a timer of the loop stands still while a laptop sleeps.
        left = boot_ms - self._tools.clock.boot_ms()
        while left > 0:
            await asyncio.sleep(min(left / 1000, 30.0))
            left = boot_ms - self._tools.clock.boot_ms()
        self.take(steps.IdleTimer())

    # Its end.

    async def _close(self) -> None:
        await self._leave()
        self.take(steps.SessionClosed())

    async def _leave(self) -> None:
        if self._session is None:
            return
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._session.end()
        except TimeoutError:
            log.warning("agent would not leave", run=self.record.id)
        except Exception:  # a driver's own mistake at the end must not keep the tree from being ended
            log.exception("driver failed at its end", run=self.record.id)

    async def _walk(self, rung: str) -> None:
        tools, run = self._tools, self.record.id
        since = tools.clock.boot_ms()
        if rung == "interrupt" and self._session is not None:
            try:
                async with asyncio.timeout(tools.settings.interrupt_s):
                    await self._session.interrupt()
            except (AgentGone, TimeoutError):
                pass  # the signals that follow need no consent
            except Exception:  # nor do a driver's own mistakes hold them up
                log.exception("driver failed to interrupt", run=run)
        first = "kill" if rung == "kill" else "terminate"
        self._emptied = await tools.processes.end(run, grace_s=tools.settings.grace_s, from_rung=first, since_ms=since)
        while self._emptied.left:
            self.take(steps.TreeLeft(", ".join(self._emptied.left)))
            await asyncio.sleep(TRY_AGAIN_S)
            self._emptied = await tools.processes.end(run, grace_s=0, from_rung="kill", since_ms=since)
        tools.questions.gone(run)
        tools.outputs.rest(run)
        self.take(steps.TreeEmptied())

    async def _let_go(self) -> None:
        """Its processes are gone: the driver lets go of what it held of them."""
        await self._leave()
        self._tools.outputs.rest(self.record.id)
        if self.record.output_next != self._tools.outputs.next(self.record.id):
            self.record = self._tools.reports.put_run(self.record)  # there was more to say after its end
