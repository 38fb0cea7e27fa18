"""Figure (c): from the kill rung to a tree of 20 with escapees that is proven empty, beside the kernel's own ways to kill one."""

import asyncio
import contextlib
import os
import secrets
import select
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.figure import Figure
from daemon.cgroup import Cgroups
from daemon.clock import SystemClock
from daemon.process import Processes

ROUNDS = 25
TREE = """\
#!/bin/sh
# 20 processes with this shell: plain, deaf to SIGTERM, own sessions, double forks, emptied environments.
exec </dev/null
each() { n=0; while [ $n -lt $1 ]; do eval "$2"; n=$((n+1)); done; }
each 5 "sleep $1 &"
each 3 "sh -c \\"trap '' TERM; exec sleep $1\\" &"
each 3 "setsid sleep $1 &"
each 4 "(setsid sleep $1 &)"
each 4 "(setsid env -i sleep $1 &)"
exec sleep $1
"""
PLAIN = '#!/bin/sh\nn=0\nwhile [ $n -lt 19 ]; do sleep "$1" & n=$((n+1)); done\nexec sleep "$1"\n'


def alive(token: str) -> list[int]:
    """Look as somebody outside: whose command line is exactly a sleep with this token."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", token.encode()]:
                found.append(int(name))
    return found


async def grown(token: str) -> list[int]:
    while len(pids := alive(token)) < 20:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)  # let the last forks settle: the figure is the kill, not the growing
    return pids


@contextlib.contextmanager
def watched(pids: list[int]) -> Iterator[Callable[[], float]]:
    """Yield a wait for the death of all of these; it returns the moment. Bury those that came to this process."""
    poll = select.epoll()
    fds = {os.pidfd_open(pid) for pid in pids}
    for fd in fds:
        poll.register(fd, select.EPOLLIN)

    def until_dead() -> float:
        left = set(fds)
        while left:
            for fd, _ in poll.poll():
                poll.unregister(fd)
                left.discard(fd)
        return time.perf_counter()

    yield until_dead
    poll.close()
    for fd in fds:
        os.close(fd)
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


async def floor_cgroup(program: Path, cgroups: Cgroups) -> float:
    """The bare floor: one write to cgroup.kill, until the last process is dead."""
    cage = cgroups.of("floor")
    cage.make()
    token = a_token()
    into = f'echo $$ > {cage.tree}/cgroup.procs; exec "$0" "$1"'
    shell = subprocess.Popen(["/bin/sh", "-c", into, str(program), token])
    with watched(await grown(token)) as until_dead:
        began = time.perf_counter()
        (cage.tree / "cgroup.kill").write_text("1")
        took = until_dead() - began
        shell.wait()
    cage.remove()
    return took


async def floor_killpg(program: Path) -> float:
    """The floor of those without cgroups, and without proof: one killpg of a tree that has no escapees."""
    token = a_token()
    shell = subprocess.Popen([str(program), token], process_group=0)
    with watched(await grown(token)) as until_dead:
        began = time.perf_counter()
        os.killpg(shell.pid, signal.SIGKILL)
        took = until_dead() - began
        shell.wait()
    return took


async def product(processes: Processes, program: Path, number: int) -> float:
    token, run = a_token(), f"run{number}"
    launch = processes.launch(run, 1, program)
    agent = await asyncio.create_subprocess_exec(str(launch.program), token, env={**os.environ, **launch.env})
    await processes.keeper(run, 10)
    await grown(token)
    began = time.perf_counter()
    emptied = await processes.empty(run, grace_s=0, from_rung="kill")
    took = time.perf_counter() - began
    survivors = alive(token)
    if emptied.left or survivors:
        raise AssertionError(f"not empty: {emptied}, {survivors}")
    await agent.wait()
    processes.forget(run)
    return took


def a_token() -> str:
    return f"86400.{secrets.randbelow(10**12):012}"


async def measure() -> list[Figure]:
    times: dict[str, list[float]] = {"caged": [], "free": [], "cgroup.kill": [], "killpg": []}
    with tempfile.TemporaryDirectory(prefix="swb") as folder:
        tree, plain = Path(folder, "tree"), Path(folder, "plain")
        for path, text in ((tree, TREE), (plain, PLAIN)):
            path.write_text(text)
            path.chmod(0o700)
        cgroups = Cgroups.find("bench-floor", Path(folder))
        clock = SystemClock()
        async with (
            Processes("bench", Path(folder, "caged"), clock) as caged,
            Processes("bench", Path(folder, "free"), clock, cgroups=False) as free,
        ):
            for number in range(ROUNDS):  # in turn, so that all meet the same machine
                if cgroups:
                    times["cgroup.kill"].append(await floor_cgroup(tree, cgroups))
                    times["caged"].append(await product(caged, tree, number))
                times["killpg"].append(await floor_killpg(plain))
                times["free"].append(await product(free, tree, number))
        if cgroups:
            cgroups.close()
    middle = {name: statistics.median(values) * 1000 for name, values in times.items() if values}
    rows = [("kill tree of 20, cgroup", "caged", "cgroup.kill", 2.0)] if cgroups else []
    rows.append(("kill tree of 20, no cgroups, beside killpg of a plain tree", "free", "killpg", 10.0))
    if cgroups:
        rows.append(("kill tree of 20, no cgroups, beside cgroup.kill", "free", "cgroup.kill", 10.0))
    return [Figure(name, middle[ours], "ms", middle[floor], target) for name, ours, floor, target in rows]
