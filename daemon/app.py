"""The one place where the daemon is put together, and its life from start to end."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import structlog

from daemon import recovery
from daemon.agents.claude_code import ClaudeCode
from daemon.agents.driver import Driver
from daemon.answers import Answers
from daemon.apart import Apart
from daemon.clock import Clock, SystemClock
from daemon.disk import DiskFull
from daemon.domain.outbox import Quota
from daemon.domain.redaction import Redactor, secrets_in
from daemon.identity import Identity
from daemon.journal import Journal
from daemon.link.channels import raise_descriptor_limit
from daemon.link.control import Control
from daemon.link.enrol import keep_fresh
from daemon.link.upload import Upload
from daemon.output import Outputs
from daemon.process import Processes
from daemon.questions import Questions
from daemon.reports import Reports
from daemon.runner import Runner
from daemon.runs import Runs
from daemon.safety import SafetyStore
from daemon.settings import Settings
from daemon.spool import Spool
from daemon.starting import Checks
from daemon.stopping import Stops
from daemon.tools import Tools

log = structlog.get_logger()

STOPPED = "the daemon was stopped"
RESTARTS = "the daemon restarts; the run goes on afterwards"
LAST_WORDS_S = 3.0  # for what happened at the end to reach the switchboard
TRIM_AFTER_MS = 14 * 24 * 3600 * 1000
LIFTS_KEPT_MS = 35 * 24 * 3600 * 1000  # as long as the switchboard keeps them
TRIM_EVERY_S = 300.0
LOOK_FOR_AGENTS_EVERY_S = 300.0
FIRST_LOOK_S = 3.0  # that a hello waits to name the agents


@dataclass(slots=True)
class Daemon:
    """A daemon that is put together and not yet alive."""

    settings: Settings
    tools: Tools
    runs: Runs
    runner: Runner
    control: Control
    upload: Upload
    identity: Identity
    checks: Checks
    name: str
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    looked: asyncio.Event = field(default_factory=asyncio.Event)  # which agents there are is known
    restart: bool = False

    async def live(self) -> None:
        """Recover, attach, carry runs until `end` or `drain`; nothing of any run is alive when it returns."""
        again = await recovery.recover(self.tools)
        async with asyncio.TaskGroup() as tasks:
            lives = tasks.create_task(self.runs.live(self.ending), name="runs")
            await asyncio.sleep(0)  # runs can be taken from here on
            others = [
                tasks.create_task(self._agents(), name="agents"),
                tasks.create_task(self._attach(), name="control"),
                tasks.create_task(self.upload.run(), name="upload"),
                tasks.create_task(keep_fresh(self.identity, self.tools.clock, self.control.again), name="certificate"),
                tasks.create_task(self._seconds(), name="seconds"),
                tasks.create_task(self._minutes(), name="minutes"),
                tasks.create_task(
                    recovery.take_up(self.tools, self.runs, again, self.control.attached), name="taking up again"
                ),
                tasks.create_task(recovery.finish_saving(self.tools), name="safety copies"),
                tasks.create_task(recovery.see_to_survivors(self.tools, self.runs), name="survivors"),
            ]
            await lives
            await self._last_words()
            for task in others:
                task.cancel()

    def end(self) -> None:
        """End every run by the ladder; they can be resumed. It calls off a restart, and nothing is taken up again by itself."""
        self.restart = False
        recovery.call_off(self.tools, STOPPED)
        self.runs.halt(STOPPED)
        self.ending.set()

    async def drain(self, wait_s: float) -> bool:
        """Bring every run to rest at its idle moment, remember which, and come back as another process.

        Return False when the daemon ends instead: whoever said so meanwhile has the last word.
        """
        if self.ending.is_set():
            return self.restart
        recovery.remember(self.tools, self.runs)  # first: a crash while draining resumes them too
        self.restart = True
        rested = await self.runs.drain(RESTARTS, wait_s)
        if not self.restart:
            return False
        if not rested:
            recovery.remember(self.tools, self.runs, now=True)
            self.runs.halt(RESTARTS)
        self.ending.set()
        return True

    def status(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "machine": self.identity.machine().id,
            "name": self.name,
            "attached": self.control.attached.is_set(),
            "trouble": self.control.trouble,
            "disk": self.tools.reports.full,
            "runs": [
                {"id": attempt.record.id, "state": attempt.record.state, "repo": attempt.record.repo}
                for attempt in self.runs.alive()
            ],
        }

    async def _agents(self) -> None:
        """Look which agents this machine has, now and again."""
        while True:
            found = await self.checks.programs()
            if found != self.runner.programs:
                self.runner.programs = found
                self.control.again()  # the hello says what was found
            self.looked.set()
            await asyncio.sleep(LOOK_FOR_AGENTS_EVERY_S)

    async def _attach(self) -> None:
        """Stay attached. A first look at the agents that is slow makes a second hello, and keeps no order waiting."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self.looked.wait()
        await self.control.run()

    async def _seconds(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.tools.questions.expire()
            if self.tools.reports.full:
                self._try_disk()

    def _try_disk(self) -> None:
        try:
            self.tools.journal.set("disk", str(self.tools.clock.wall_ms()))
            self.tools.outputs.try_disk()
            self.tools.stops.try_disk()
            self.tools.reports.try_disk()
            self.tools.questions.try_disk()
        except DiskFull:
            return
        self.tools.reports.disk_back()

    async def _minutes(self) -> None:
        while True:
            await asyncio.sleep(TRIM_EVERY_S)
            now = self.tools.clock.wall_ms()
            with contextlib.suppress(DiskFull):  # it is tried again in a while
                self.tools.journal.trim(now - TRIM_AFTER_MS)
                self.tools.journal.forget_lifted(now - LIFTS_KEPT_MS)
                await asyncio.to_thread(self.tools.safety.expire, now)
                self.tools.outputs.let_go(
                    {run.id for run in self.tools.journal.runs()}, {attempt.record.id for attempt in self.runs.alive()}
                )

    async def _last_words(self) -> None:
        """Give what happened at the end a moment to reach the switchboard; the next hello says it otherwise."""
        until = self.tools.clock.boot_ms() + LAST_WORDS_S * 1000
        while self.tools.clock.boot_ms() < until and self.control.attached.is_set():
            if not self.control.owed and not self.tools.outputs.pending():
                return
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def put_together(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Daemon]:
    """Open the disk and the keepers' socket. Raises NotEnrolled, DiskError."""
    clock = clock or SystemClock()
    raise_descriptor_limit()
    identity = Identity(settings.home)
    machine = identity.machine()
    env = {**os.environ, **settings.agent_env}
    env.pop("GRPC_ENABLE_FORK_SUPPORT", None)  # the daemon's own, see __main__
    with contextlib.ExitStack() as open_files:
        journal = Journal(settings.home, clock, settings.journal_bytes)
        open_files.callback(journal.close)
        spool = Spool(settings.home, clock, settings.spool_bytes)
        open_files.callback(spool.close)
        redactor = Redactor(_secrets(env, settings))
        reports = Reports(journal, redactor)
        quota = Quota(settings.output_bytes_per_s, 4 * settings.output_bytes_per_s, settings.output_bytes)
        safety = SafetyStore(settings.home, clock)
        outputs = Outputs(spool, redactor, clock, quota, reports)
        apart = Apart(settings.home)
        stops = Stops(journal, apart, clock, machine.id, reports)
        questions = Questions(journal, redactor, clock, settings.expiry_s, reports)
        async with Processes(machine.id, settings.home, clock) as processes:
            tools = Tools(journal, processes, outputs, questions, stops, clock, safety, settings, reports)
            checks = Checks(_drivers(settings, env), settings, apart)
            runs = Runs(tools, checks)
            stops.live = runs.stoppable
            reports.on_full = lambda why: runs.halt(f"the disk takes nothing any more: {why}", close=False)
            runner = Runner(tools, runs, Answers(journal, outputs, redactor, safety, apart), machine.name)
            control = Control(identity, runner, clock)
            upload = Upload(identity, outputs, clock, control.attached)
            reports.output_next = outputs.next
            reports.send, outputs.poke, runner.answered = control.report, upload.poke, upload.answer
            yield Daemon(settings, tools, runs, runner, control, upload, identity, checks, machine.name)


def machine_name() -> str:
    return socket.gethostname()[:200] or "machine"


def _drivers(settings: Settings, env: Mapping[str, str]) -> dict[str, Driver]:
    claude = ClaudeCode(settings.claude, env)
    return {claude.name: claude}


def _secrets(env: Mapping[str, str], settings: Settings) -> frozenset[str]:
    named = {env[name] for name in settings.secrets if env.get(name)}
    return secrets_in(env) | named
