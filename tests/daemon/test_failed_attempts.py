"""What becomes of a run whose driver fails at its work: it is over when nothing of it lives, and proven like any other."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers.checkouts import checkout
from helpers.eventually import eventually
from helpers.processes import MACHINE, alive, program, sleepers, token, tree

from daemon.agents.driver import Ask, Found, Spec
from daemon.apart import Apart
from daemon.clock import SystemClock
from daemon.domain.agent import Capabilities, Ready, SessionEvent
from daemon.domain.facts import OrderRecord
from daemon.domain.instruction import Held, Start
from daemon.domain.outbox import Quota
from daemon.domain.redaction import Redactor
from daemon.domain.run import RunState
from daemon.journal import Journal
from daemon.output import Outputs
from daemon.process import Processes
from daemon.questions import Questions
from daemon.reports import Reports
from daemon.runs import Runs
from daemon.safety import SafetyStore
from daemon.settings import Settings
from daemon.spool import Spool
from daemon.starting import Checks
from daemon.stopping import Stops
from daemon.tools import Tools

CLOCK = SystemClock()
FREEZER = Path("/sys/fs/cgroup/freezer")  # the only jail from which not even SIGKILL gets a process before it is opened


@dataclass
class Faulty:
    """A driver whose session comes up, does not heed an interrupt, and fails when it is told to."""

    agent: Path
    word: str
    name: str = "faulty"
    capabilities: Capabilities = field(default_factory=Capabilities)
    fails: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None

    async def find(self) -> Found:
        return Found(self.name, "1", self.agent, True)

    async def start(self, spec: Spec, ask: Ask) -> "Faulty":
        env = {**os.environ, **spec.launch.env}
        self.process = await asyncio.create_subprocess_exec(spec.launch.program, self.word, env=env)
        return self

    async def events(self) -> AsyncIterator[SessionEvent]:
        yield Ready("s1")
        await self.fails.wait()
        raise LookupError("a driver's own mistake")

    async def send(self, text: str) -> None:
        pass

    async def interrupt(self) -> None:
        await asyncio.Event().wait()

    async def end(self) -> None:
        pass


@contextlib.asynccontextmanager
async def stopping(root: Path) -> AsyncIterator[tuple[Faulty, Tools]]:
    """A run of three processes that is being stopped by order o1, and whose driver is about to fail."""
    home = root / "d"
    driver = Faulty(program(root, tree("own session", "deaf")), token())
    checkout(root / "repo")
    settings = Settings(home=home, interrupt_s=60)
    redactor, apart = Redactor(()), Apart(home)
    with contextlib.closing(Journal(home, CLOCK)) as journal, contextlib.closing(Spool(home, CLOCK)) as spool:
        reports = Reports(journal, redactor)
        outputs = Outputs(spool, redactor, CLOCK, Quota(2**20, 2**22, 2**20), reports)
        stops = Stops(journal, apart, CLOCK, MACHINE, reports)
        questions = Questions(journal, redactor, CLOCK, 3600, reports)
        async with Processes(MACHINE, home, CLOCK) as processes:
            tools = Tools(
                journal, processes, outputs, questions, stops, CLOCK, SafetyStore(home, CLOCK), settings, reports
            )
            runs = Runs(tools, Checks({"faulty": driver}, settings, apart))
            stops.live = runs.stoppable
            ending = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(runs.live(ending))
                await asyncio.sleep(0)  # it takes runs from here on
                runs.start("", Start(run="r1", path=str(root / "repo"), agent="faulty", prompt="work"))
                await eventually(lambda: len(sleepers(driver.word)) == 3)
                stops.take(
                    Held("e1", 1, (OrderRecord(id="o1", generation=1, selector={"all": True}, reason="why", by="ana"),))
                )
                await eventually(lambda: state(tools) is RunState.STOPPING)
                yield driver, tools
                ending.set()
            if driver.process is not None:
                await driver.process.wait()


def state(tools: Tools) -> RunState | None:
    found = tools.journal.run("r1")
    return found.state if found else None


def outcomes(tools: Tools) -> list[str]:
    return [receipt.outcome for receipt in tools.journal.receipts("o1")]


@contextlib.contextmanager
def jailed(pid: int) -> Iterator[Path | None]:
    """Freeze a process so that it cannot even die; yield the file that says so, None where nobody may be frozen so."""
    jail = FREEZER / f"switchboard-test-{os.getpid()}"
    try:
        jail.mkdir()
    except OSError:
        yield None
        return
    try:
        (jail / "cgroup.procs").write_text(str(pid))
        (jail / "freezer.state").write_text("FROZEN")
        yield jail / "freezer.state"
    finally:
        (jail / "freezer.state").write_text("THAWED")
        (FREEZER / "cgroup.procs").write_text(str(pid)) if os.path.exists(f"/proc/{pid}") else None
        with contextlib.suppress(OSError):
            jail.rmdir()


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="swb") as folder:
        yield Path(folder)


async def test_a_run_whose_driver_fails_under_a_stop_is_proven(root: Path) -> None:
    async with stopping(root) as (driver, tools):
        driver.fails.set()
        await eventually(lambda: state(tools) is RunState.STOPPED, 30)

        assert alive(driver.word) == []
        (receipt,) = tools.journal.receipts("o1")
        assert (receipt.outcome, receipt.rung, bool(receipt.proof)) == ("ended", "kill", True)


async def test_a_run_whose_driver_fails_is_not_over_while_a_process_of_it_survives(root: Path) -> None:
    async with stopping(root) as (driver, tools):
        survivor = sleepers(driver.word)[-1]
        with jailed(survivor) as jail:
            driver.fails.set()
            if jail is not None:  # where nothing can be made to survive SIGKILL, it is over at once
                await eventually(lambda: outcomes(tools) == ["failed"], 30)
                said = tools.journal.run("r1")
                assert said is not None
                assert (said.state, f"pid {survivor} sleep" in said.reason) == (RunState.STOPPING, True)
                jail.write_text("THAWED")
            await eventually(lambda: state(tools) is RunState.STOPPED, 30)

        assert outcomes(tools) == ["ended"]
        assert alive(driver.word) == []
