"""Reading checkouts in a process of its own, which can be killed.

libgit2 holds the interpreter while it reads, for seconds on a large checkout and for ever on a pipe that is called
.gitignore; a stop must not wait for either.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from daemon import git
from daemon.clock import SystemClock
from daemon.domain.facts import Saved, pack, unpack
from daemon.domain.names import shown
from daemon.git import Diff, Repo, RepoProblem
from daemon.restore import CannotRestore, Restored, restore
from daemon.safety import Caps, NoCopy, SafetyStore

LOOK_S, DIFF_S, RESTORE_S = 20.0, 30.0, 120.0  # less than the switchboard waits for each
_MEMORY = 2 << 30  # bytes of data, so that a checkout cannot take all of the machine
_PR_SET_PDEATHSIG = 1
_PROBLEMS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (RepoProblem, NoCopy, CannotRestore)}

T = TypeVar("T")


class Apart:
    """Its methods do what the functions of the same names do, and raise RepoProblem when that takes too long or dies."""

    def __init__(self, home: Path, caps: Caps | None = None, *, at_once: int = 3) -> None:
        self._home, self._caps, self._turn = home, caps or Caps(), asyncio.Semaphore(at_once)

    async def look(self, path: str | Path, *, limit_s: float = LOOK_S) -> Repo:
        return await self._do(Repo, "look", [str(path)], limit_s)

    async def diff(self, path: str | Path, base: str, *, limit_s: float = DIFF_S) -> Diff:
        """Compare the checkout around *path* with the commit *base*."""
        return await self._do(Diff, "diff", [str(path), base, limit_s * 0.7], limit_s)

    async def save(self, path: str | Path, run: str, base: str) -> Saved:
        """Keep what the checkout around *path* has not committed. Never raises: what went wrong is in the answer."""
        caps = json.loads(pack(self._caps))
        try:
            return await self._do(Saved, "save", [str(self._home), str(path), run, base, caps], self._caps.seconds * 2)
        except (RepoProblem, NoCopy, CannotRestore) as error:
            return Saved(error=str(error))

    async def restore(self, id: str, into: str | Path, *, limit_s: float = RESTORE_S) -> Restored:
        """Raises NoCopy, CannotRestore, RepoProblem."""
        return await self._do(Restored, "restore", [str(self._home), id, str(into)], limit_s)

    async def _do(self, cls: type[T], name: str, arguments: list[Any], limit_s: float) -> T:
        async with self._turn:
            # In our own session: a child in another one is taken for an orphan of a killed keeper.
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "daemon.apart", name, str(limit_s + 5)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd="/",
            )
            try:
                async with asyncio.timeout(limit_s):
                    out, err = await child.communicate(json.dumps(arguments).encode())
            except TimeoutError:
                raise RepoProblem(
                    f"the checkout could not be read within {limit_s:g} s: it is too large, or something in it hangs"
                ) from None
            finally:
                if child.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        child.kill()
                    await child.wait()
        return _answer(cls, out, err, child.returncode or 0)


def _answer(cls: type[T], out: bytes, err: bytes, code: int) -> T:
    try:
        kind, body = out.decode("ascii").split("\n", 1)
    except ValueError:
        last = err.decode(errors="replace").strip().splitlines()[-1:] or [f"it ended with {code}"]
        raise RepoProblem(f"the checkout could not be read: {shown(last[0])}") from None
    if kind == "done":
        return unpack(cls, body)
    raise _PROBLEMS.get(kind, RepoProblem)(json.loads(body))


def _look(path: str) -> Repo:
    return git.look(path)


def _diff(path: str, base: str, limit_s: float) -> Diff:
    return git.diff(git.find_root(path), base, limit_s=limit_s)


def _save(home: str, path: str, run: str, base: str, caps: dict[str, Any]) -> Saved:
    return SafetyStore(Path(home), SystemClock(), Caps(**caps)).save(git.find_root(path), run, base)


def _restore(home: str, id: str, into: str) -> Restored:
    return restore(SafetyStore(Path(home), SystemClock()), id, Path(into))


_WORK: dict[str, Callable[..., Any]] = {"look": _look, "diff": _diff, "save": _save, "restore": _restore}


def main(name: str, limit_s: str) -> None:
    # By the kernel's hand, so that it ends even inside of libgit2: with the daemon, or when its time is up.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, float(limit_s))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    os.nice(10)
    try:
        answer = f"done\n{pack(_WORK[name](*json.load(sys.stdin)))}"
    except tuple(_PROBLEMS.values()) as error:
        answer = f"{type(error).__name__}\n{json.dumps(str(error))}"
    except MemoryError:
        answer = f"RepoProblem\n{json.dumps(f'the checkout needs more than {_MEMORY >> 30} GiB to be read')}"
    sys.stdout.write(answer)
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
