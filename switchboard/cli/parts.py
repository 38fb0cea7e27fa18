"""The processes that `up` keeps alive: started so that none outlives it, and taken over or ended when an earlier one was killed."""

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from switchboard.cli import notes
from switchboard.cli.errors import Failed
from switchboard.cli.text import plain

PR_SET_PDEATHSIG = 1
LOG_LIMIT = 10 << 20
EARLIER_ENDS_WITHIN_S = 20.0


def lock(data: Path) -> IO[str]:
    """Return the held lock of a data folder. Raises Failed when another `up` has it."""
    file = open(os.open(data / "up.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+")  # noqa: SIM115 - held until exit
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with file:
            pid = file.read().strip() or "?"
        raise Failed(
            f"another `switchboard up` (pid {plain(pid)}) runs with the data in {data}: end it, or say another --data"
        ) from None
    with contextlib.suppress(OSError):  # a full disk: whoever is refused is not told our pid
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), str(os.getpid()).encode())
    return file


class Leash:
    """A lock that every part inherits, so that it is free exactly when all parts of an earlier `up` are gone."""

    def __init__(self, data: Path, tell: Callable[[str], None]) -> None:
        self._list = data / "parts.json"
        self.fd = os.open(data / "parts.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._pids: dict[str, tuple[int, str]] = {}
        self._tell = tell

    def take(self) -> None:
        """Wait for the parts of an earlier `up` that was killed; end those that do not end. Raises Failed."""
        begun, told, killed = time.monotonic(), False, False
        while not self._try():
            waited = time.monotonic() - begun
            if waited > 1 and not told:
                self._tell("waiting for the parts of an earlier `up` to end")
                told = True
                self._signal(signal.SIGTERM)
            if waited > EARLIER_ENDS_WITHIN_S and not killed:
                killed = True
                self._signal(signal.SIGKILL)
            if waited > EARLIER_ENDS_WITHIN_S + 5:
                raise Failed(f"parts of an earlier `up` do not end: look at {self._list} and end those processes")
            time.sleep(0.05)

    def _try(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def note(self, name: str, pid: int) -> None:
        self._pids[name] = (pid, started(pid))
        notes.keep(self._list, self._pids, self._tell)

    def _signal(self, number: signal.Signals) -> None:
        try:
            noted = json.loads(self._list.read_text())
        except (OSError, ValueError):
            return  # nothing is known of them; the wait goes on
        for pid, since in noted.values():
            if since and started(pid) == since:
                os.kill(pid, number)


def started(pid: int) -> str:
    """Return what tells this process from a later one with the same pid; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        pass
    if sys.platform != "darwin":
        return ""
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


class Part:
    """One child of `up`: its process, its log, and the last words it wrote there."""

    def __init__(self, name: str, log: Path, leash: Leash) -> None:
        self.name = name
        self.log = log
        self._leash = leash
        self._read_from = 0
        self.process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.process.returncode is None else None

    async def start(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, fds: Sequence[int] = ()) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches only `up`, which then ends it in good order."""
        self.log.parent.mkdir(mode=0o700, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._read_from = os.fstat(log).st_size
        try:
            self.process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(env),
                cwd=cwd,
                pass_fds=(self._leash.fd, *fds),
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
        finally:
            os.close(log)
        self._leash.note(self.name, self.process.pid)

    def last_words(self) -> str:
        """Return the last line that this process wrote, which is the sentence when it ended with one."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self._read_from, self.log.stat().st_size - 4096))
                lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        except OSError:
            return ""
        if not lines:
            return ""
        try:
            line = str(json.loads(lines[-1])["event"])
        except (ValueError, KeyError, TypeError):
            line = lines[-1]
        return plain(line.removeprefix("switchboard: ").removeprefix("switchboard-daemon: "))

    async def ended(self) -> str:
        """Wait for its end and return how it came about, in words."""
        assert self.process is not None
        code = await self.process.wait()
        if code < 0:
            return f"was killed by signal {-code}"
        return f"ended with code {code}"

    async def end(self, within_s: float) -> None:
        """Ask it to end, and kill it when it does not."""
        if self.process is None or self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), within_s)
        except TimeoutError:
            self.kill()
            await self.process.wait()

    def kill(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.kill()


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return what makes a child end when *parent* was killed; on macOS there is no such thing, and the next `up` ends it."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)

    def tie() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return tie
