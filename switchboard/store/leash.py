"""A child that never outlives its parent and that a later one recognises: a script that notes who it is and becomes the program.

It is a program of its own because code between fork and exec is not safe in a process with threads.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Process:
    """A pid with its start time, because pids are used again."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "Process":
        return cls(pid, _started(pid))

    def alive(self) -> bool:
        return bool(self.started) and _started(self.pid) == self.started


def read(note: Path) -> Process | None:
    """Return who wrote *note* last, if it can be read."""
    try:
        found = json.loads(note.read_bytes())
        return Process(int(found["pid"]), str(found["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def command(note: Path, arguments: list[str], *, tied: bool) -> list[str]:
    """Return what to execute so that *arguments* run as that very process, noted in *note*; *tied*: it dies with its parent."""
    parent = str(os.getpid()) if tied else "0"
    return [sys.executable, "-I", "-S", __file__, parent, str(note), *arguments]


def _started(pid: int) -> str:
    """When it started, as the system counts; empty when it is gone or a zombie."""
    if sys.platform == "linux":
        try:
            state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            # A first thread that is a zombie while others still die does hold its files.
            gone = state in (b"Z", b"X") and len(os.listdir(f"/proc/{pid}/task")) <= 1
        except OSError:
            return ""
        return "" if gone else rest[18].decode()
    asked = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = asked.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else started.strip()


def main() -> None:
    parent, note, program = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    if parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the leash was on
            sys.exit(1)
    me = Process.of(os.getpid())
    short = note.with_suffix(".part")
    short.write_text(json.dumps({"pid": me.pid, "started": me.started}))
    os.replace(short, note)
    os.execv(program[0], program)  # noqa: S606  our own argv


if __name__ == "__main__":
    main()
