"""Real process trees, and an observer of them that uses nothing of the product."""

import asyncio
import contextlib
import os
import secrets
import signal
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.eventually import eventually

from daemon.process import Keeper, Processes

MACHINE = f"machine-{os.getpid()}"  # tests run side by side on one machine
KINDS = {
    "plain": 'sleep "$T" &',
    "deaf": "sh -c \"trap '' TERM INT HUP; exec sleep $T\" &",
    "own session": 'setsid sleep "$T" &',
    "double fork": '(setsid sleep "$T" &)',
    "emptied environment": '(setsid env -i sleep "$T" &)',
    "deaf, double fork, emptied environment": "(setsid env -i /bin/sh -c \"trap '' TERM INT HUP; exec sleep $T\" &)",
}
HEAD = "#!/bin/sh\n# Each process carries the token, which is also a duration, in its command line.\nT=$1\n"


def tree(*kinds: str, last: str = 'exec sleep "$T"') -> str:
    """Return a program that starts these processes and then becomes *last*."""
    return HEAD + "".join(f"{KINDS[kind]}\n" for kind in kinds) + last + "\n"


ALL_TWENTY = tree(*[kind for kind in KINDS for _ in range(4)][:19])


def token() -> str:
    """Return a word that is a duration of about a day for sleep(1), and one of a kind."""
    return f"86{secrets.randbelow(1000):03}.{secrets.randbelow(10**12):012}"


def program(folder: Path, text: str) -> Path:
    path = folder / f"agent-{secrets.token_hex(4)}"
    path.write_text(text)
    path.chmod(0o700)
    return path


def alive(word: str) -> list[int]:
    """Return the pids that hold *word* in their command line; the dead have none. Keepers hand it on, so they are found too."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if word.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(int(name))
    return found


def sleepers(word: str) -> list[int]:
    """Return the processes of a tree itself: those that have become sleep(1)."""
    found = []
    for pid in alive(word):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0"):
                found.append(pid)
    return found


def state_of(pid: int) -> str:
    """Return the state letter of proc(5), or "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_dead(pid: int) -> bool:
    return state_of(pid) in ("", "Z", "X")


def zombie_children() -> list[int]:
    """Return the dead that this process has not buried."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and int(fields[1]) == os.getpid():
                found.append(int(name))
    return found


def environ(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


_OPEN: list[Process] = []


async def close_pipes() -> None:
    """Let go of the pipes of all that was started here, as a driver does whose agent is dead."""
    while _OPEN:
        _OPEN.pop()._transport.close()  # type: ignore[attr-defined]
    await asyncio.sleep(0)


async def execute(*command: str | Path, **options: Any) -> Process:
    """Start a process whose pipes `close_pipes` lets go of."""
    process = await asyncio.create_subprocess_exec(*command, **options)
    _OPEN.append(process)
    return process


@dataclass
class Started:
    keeper: Keeper
    process: Process  # as a driver sees it
    token: str

    def kill_keeper(self, signum: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.keeper.pid, signum)


async def start(processes: Processes, run: str, folder: Path, text: str, sleeping: int = 0) -> Started:
    """Start *text* as a driver would, and return when *sleeping* processes of it have become sleep(1)."""
    word = token()
    launch = processes.launch(run, 1, program(folder, text))
    env = {**os.environ, **launch.env}
    process = await execute(launch.program, word, env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    keeper = await processes.keeper(run, 10)
    await eventually(lambda: len(sleepers(word)) >= sleeping)
    return Started(keeper, process, word)


def murder(word: str) -> None:
    """Clean up after a failed test: nothing that carries the token may outlive it."""
    for pid in alive(word):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
