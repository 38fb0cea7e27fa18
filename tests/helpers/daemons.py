"""A real daemon as a process of its own, joined to whatever switchboard a test has."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import psutil

from daemon import door


class DaemonProcess:
    def __init__(self, home: Path, env: Mapping[str, str], *options: str) -> None:
        self.home, self._env, self._options = home, dict(env), options
        self.process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self, **more: str) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        log = (self.home.parent / f"{self.home.name}.log").open("ab")
        argv = [sys.executable, "-m", "daemon", "run", "--data", str(self.home), *self._options]
        env = {**self._env, **more}
        self.process = await asyncio.create_subprocess_exec(
            *argv, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
        log.close()

    def log(self) -> str:
        return (self.home.parent / f"{self.home.name}.log").read_text(errors="replace")

    async def kill(self) -> None:
        """As an out-of-memory killer would."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def end(self, within: float = 40) -> int:
        """Ask it to end, and return its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(within):
            return await self.process.wait()

    async def command(self, *argv: str) -> tuple[int, str]:
        """Run `switchboard-daemon` on its folder; return the exit code and everything that was said."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "daemon", *argv, "--data", str(self.home)),
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def ask(self, command: str, **said: object) -> dict[str, object]:
        return await asyncio.to_thread(door.call, self.home, command, 60, **said)


@contextlib.asynccontextmanager
async def daemon_process(home: Path, env: Mapping[str, str], *options: str) -> AsyncIterator[DaemonProcess]:
    """A daemon that is started by the test, and gone when the block is left, whatever the test did."""
    daemon = DaemonProcess(home, env, *options)
    try:
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.returncode is None:
            try:
                await daemon.end(20)
            except TimeoutError:
                await daemon.kill()


def marked(mark: str) -> list[psutil.Process]:
    """Every live process here that carries *mark* in its environment: `<machine>/<run>`, or `<machine>/` for all of its runs."""
    found = []
    for process in psutil.process_iter():
        try:
            other = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            said = process.environ().get("SWITCHBOARD_RUN", "") if other else ""
            if said == mark or (mark.endswith("/") and said.startswith(mark)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def alive_with(token: str) -> list[psutil.Process]:
    """Every live process of this machine whose command line holds *token*: the observer outside of the product."""
    found = []
    for process in psutil.process_iter():
        try:
            other = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if other and any(token in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
