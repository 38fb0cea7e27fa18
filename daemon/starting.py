"""Whether a run may start here: each refusal is one sentence for the person who asked."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.agents.driver import Driver, Found
from daemon.apart import Apart
from daemon.domain.instruction import AgentProgram, Start
from daemon.git import Repo, RepoProblem
from daemon.settings import Settings

PROMPT_BYTES = 1 << 20
MODES = ("diagnose", "patch", "plan")


class Refused(Exception):
    """The run does not start; the text says why, and what would do."""


@dataclass(frozen=True, slots=True)
class Checked:
    driver: Driver
    found: Found
    path: Path  # where the agent works
    repo: Repo


class Checks:
    def __init__(self, drivers: Mapping[str, Driver], settings: Settings, apart: Apart) -> None:
        self._drivers, self._settings, self._apart = drivers, settings, apart

    async def programs(self) -> tuple[AgentProgram, ...]:
        """Look for every agent that this daemon can drive."""
        found = [await driver.find() for driver in self._drivers.values()]
        return tuple(AgentProgram(f.name, f.version, f.problem, f.signed_in) for f in found)

    async def start(self, start: Start) -> Checked:
        """Return what the start needs. Raises Refused."""
        driver = self.driver(start.agent)
        if start.mode and start.mode not in driver.capabilities.modes:
            raise Refused(_no_mode(start.mode, driver))
        if start.scope:
            raise Refused("a scope cannot be enforced yet: start without --scope, and name the files in the prompt")
        size = len(start.prompt.encode("utf-8", "replace"))
        if size > PROMPT_BYTES:
            raise Refused(f"the prompt is {size:,} bytes; at most {PROMPT_BYTES:,} are taken: put the rest into a file")
        if not start.prompt.strip():
            raise Refused("the prompt is empty: say what the agent is to do")
        path, repo = await self._checkout(start.path)
        return Checked(driver, await self._usable(driver), path, repo)

    async def resume(self, agent: str, path: str) -> Checked:
        """Return what taking up a session again needs. Raises Refused."""
        driver = self.driver(agent)
        if not driver.capabilities.resumes:
            raise Refused(f"{driver.name} cannot resume a session")
        folder, repo = await self._checkout(path)
        return Checked(driver, await self._usable(driver), folder, repo)

    def driver(self, agent: str) -> Driver:
        found = self._drivers.get(agent)
        if found is None:
            known = ", ".join(sorted(self._drivers))
            raise Refused(f"this machine knows no agent {agent[:80]!r}; it knows: {known}")
        return found

    async def _usable(self, driver: Driver) -> Found:
        found = await driver.find()
        if found.problem:
            raise Refused(found.problem)
        if found.path is None:
            raise Refused(f"{driver.name} was not found on this machine")
        return found

    async def _checkout(self, path: str) -> tuple[Path, Repo]:
        """Return the folder, its links resolved, and the checkout that it is in. Raises Refused."""
        folder = Path(path)
        if "\0" in path or not folder.is_absolute():
            raise Refused(f"{path[:300]!r} is not a full path: say where on the machine the checkout is")
        if self._settings.repos and not self._allowed(folder):
            raise Refused(
                f"runs may start only under {', '.join(self._settings.repos)} on this machine, not in {str(folder)[:300]!r}"
            )
        try:
            return await asyncio.to_thread(folder.resolve), await self._apart.look(folder)
        except RepoProblem as error:
            raise Refused(str(error)) from error

    def _allowed(self, folder: Path) -> bool:
        real = folder.resolve()
        return any(real.is_relative_to(Path(allowed).resolve()) for allowed in self._settings.repos)


def _no_mode(mode: str, driver: Driver) -> str:
    can = ", ".join(sorted(driver.capabilities.modes))
    if mode not in MODES:
        return f"there is no mode {mode[:40]!r}; the modes are {', '.join(MODES)}"
    return f"the mode {mode} cannot be enforced with {driver.name} yet" + (f"; {can} can" if can else "")
