"""The processes that `up` keeps: none outlives it, and none of an earlier one is left beside it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.eventually import eventually
from helpers.processes import alive, is_dead, token

from switchboard.cli.errors import Failed
from switchboard.cli.parts import Leash, Part, lock, started

KEEPER_OF_ONE_PART = """
import asyncio, os, sys
from pathlib import Path
from switchboard.cli.parts import Leash, Part, lock

async def main():
    data = Path(sys.argv[1])
    held = lock(data)
    leash = Leash(data, print)
    leash.take()
    part = Part("sleeper", data / "sleeper.log", leash)
    await part.start(sys.argv[2:], env=os.environ, cwd=data)
    print("started", part.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


@pytest.fixture
def parent(tmp_path: Path) -> Iterator["list[subprocess.Popen[str]]"]:
    begun: list[subprocess.Popen[str]] = []
    yield begun
    for process in begun:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def keep(begun: "list[subprocess.Popen[str]]", data: Path, *argv: str) -> int:
    """Start a process that keeps one part running; return the part's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", KEEPER_OF_ONE_PART, str(data), *argv], stdout=subprocess.PIPE, text=True
    )
    begun.append(process)
    assert process.stdout is not None
    return int(process.stdout.readline().split()[1])


async def test_a_second_up_in_one_folder_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(Failed, match=rf"another `switchboard up` \(pid {os.getpid()}\)"):
        lock(tmp_path)
    lock(tmp_path).close()


async def test_a_part_does_not_outlive_a_killed_up(tmp_path: Path, parent: "list[subprocess.Popen[str]]") -> None:
    word = token()
    pid = keep(parent, tmp_path, "sleep", word)
    parent[0].send_signal(signal.SIGKILL)

    await eventually(lambda: is_dead(pid))
    assert alive(word) == []


async def test_the_next_up_waits_until_nothing_of_the_last_one_is_left(
    tmp_path: Path, parent: "list[subprocess.Popen[str]]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switchboard.cli.parts.EARLIER_ENDS_WITHIN_S", 1.5)
    word = token()
    pid = keep(parent, tmp_path, sys.executable, "-c", DEAF, word)
    await eventually(lambda: (tmp_path / "sleeper.log").read_text() == "deaf\n")
    parent[0].send_signal(signal.SIGKILL)
    parent[0].wait()
    told: list[str] = []

    await asyncio.to_thread(Leash(tmp_path, told.append).take)

    assert is_dead(pid)
    assert told == ["waiting for the parts of an earlier `up` to end"]


async def test_a_part_that_will_not_end_is_killed(tmp_path: Path) -> None:
    leash = Leash(tmp_path, print)
    leash.take()
    part = Part("deaf", tmp_path / "log" / "deaf.log", leash)
    await part.start([sys.executable, "-c", DEAF], env=os.environ, cwd=tmp_path)
    await eventually(lambda: part.last_words() == "deaf")
    pid = part.pid

    await part.end(within_s=0.2)

    assert pid is not None
    assert is_dead(pid)
    assert await part.ended() == "was killed by signal 9"
    assert part.pid is None


async def test_the_last_words_are_those_of_this_process_only(tmp_path: Path) -> None:
    leash = Leash(tmp_path, print)
    leash.take()
    part = Part("talker", tmp_path / "log" / "talker.log", leash)
    for script, words in (
        ("print('switchboard: the port is taken'); raise SystemExit(1)", "the port is taken"),
        ("pass", ""),
        ('print(\'{"event": "bye \\\\u001b[2J"}\')', "bye \\x1b[2J"),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\n')", "\ufffd"),
    ):
        await part.start([sys.executable, "-c", script], env=os.environ, cwd=tmp_path)
        how = await part.ended()

        assert how.startswith("ended with code")
        assert part.last_words() == words


def test_a_pid_alone_is_never_taken_for_a_process(tmp_path: Path) -> None:
    assert started(os.getpid()) == started(os.getpid()) != ""
    assert started(os.getpid()) != started(os.getppid())
    assert started(2**22 + 1) == ""
