"""The real claude against the scripted model; without the program these tests fail, they do not skip."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import claude_agent_sdk
import pytest
from helpers.host import Host
from helpers.scripted import ScriptedModel, clean_environment, scripted_model

from daemon.agents.claude_code import ClaudeCode
from daemon.agents.claude_session import ClaudeSession
from daemon.agents.driver import Launch, Spec


@pytest.fixture(scope="session")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as running:
        yield running


@pytest.fixture(scope="session")
def program() -> Path:
    bundled = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    if not bundled.is_file():
        pytest.fail(f"the real claude is not to be had: the claude-agent-sdk wheel has no {bundled}")
    return bundled


@dataclasses.dataclass
class Place:
    """One test's own checkout, claude settings and launcher."""

    folder: Path
    program: Path
    model: ScriptedModel
    extra: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def cwd(self) -> Path:
        return self.folder / "checkout"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def driver(self) -> ClaudeCode:
        return ClaudeCode(self.program, clean_environment({**self.model.claude_env(self.config), **self.extra}))

    def launcher(self, line: str = 'exec {program} "$@"') -> Path:
        path = self.folder / "launch"
        path.write_text("#!/bin/sh\n" + line.format(program=self.program) + "\n")
        path.chmod(0o755)
        return path

    def spec(self, prompt: str, mode: str = "", resume: str = "", launch: Path | None = None) -> Spec:
        return Spec("r1", self.cwd, prompt, mode, Launch(launch or self.launcher()), resume)

    @contextlib.asynccontextmanager
    async def running(
        self, prompt: str, mode: str = "", resume: str = "", launch: Path | None = None
    ) -> AsyncIterator[tuple[ClaudeSession, Host]]:
        """A started session with its host listening; ended and fully over afterwards."""
        host = Host()
        session = await self.driver.start(self.spec(prompt, mode, resume, launch), host.ask)
        assert isinstance(session, ClaudeSession)
        listening = asyncio.create_task(host.listen(session), name="host")
        try:
            yield session, host
        finally:
            await session.end()
            await asyncio.wait_for(listening, 10)


@pytest.fixture
def place(tmp_path: Path, program: Path, model: ScriptedModel) -> Place:
    made = Place(tmp_path, program, model)
    made.cwd.mkdir()
    made.config.mkdir()
    return made


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[str], Path]:
    """A program that is not claude: a shell script of these lines."""

    def write(lines: str) -> Path:
        path = tmp_path / "fake"
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
        return path

    return write
