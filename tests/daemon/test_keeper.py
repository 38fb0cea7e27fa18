"""The keeper seen from both sides: by whoever started it in the agent's place, and by the agent."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers.eventually import eventually
from helpers.processes import (
    MACHINE,
    alive,
    close_pipes,
    environ,
    execute,
    is_dead,
    murder,
    program,
    sleepers,
    start,
    state_of,
    token,
    tree,
)

from daemon.clock import SystemClock
from daemon.process import KeeperFailed, Processes

KEEPER = Path(__file__).parents[2] / "daemon" / "keeper.py"


@pytest.fixture(autouse=True)
async def pipes_closed():
    yield
    await close_pipes()


@pytest.fixture
def home():
    with tempfile.TemporaryDirectory(prefix="swb") as folder:
        yield Path(folder)


@pytest.fixture(params=[True, False], ids=["cgroup", "free"])
async def processes(request, home) -> AsyncIterator[Processes]:
    async with Processes(MACHINE, home / "home", SystemClock(), cgroups=request.param) as processes:
        yield processes


async def run_out(processes: Processes, home: Path, text: str, stdin: bytes = b"") -> tuple[int | None, bytes, bytes]:
    """Run an agent to its end as a driver would; return its exit code and what it wrote."""
    started = await start(processes, "r1", home, text)
    out, err = await started.process.communicate(stdin)
    return started.process.returncode, out, err


async def test_what_goes_in_and_what_comes_out_passes_the_keeper_unchanged(processes, home):
    code, out, err = await run_out(
        processes, home, '#!/bin/sh\necho "to err" >&2\nexec cat\n', b"\x00\xffbytes\r\n" * 9999
    )

    assert (code, out, err) == (0, b"\x00\xffbytes\r\n" * 9999, b"to err\n")


@pytest.mark.parametrize(
    ("end", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", -15), ("kill -KILL $$", -9)]
)
async def test_the_agents_end_is_the_keepers_end(processes, home, end, code):
    started = await start(processes, "r1", home, f"#!/bin/sh\nread go\n{end}\n")
    started.process.stdin.write(b"go\n")

    assert await started.process.wait() == code
    assert await started.keeper.exited == code
    assert not started.keeper.lost.is_set()


async def test_arguments_and_working_directory_reach_the_agent(processes, home):
    agent = program(home, '#!/bin/sh\npwd\nprintf "%s|" "$@"\n')
    launch = processes.launch("r1", 1, agent)
    env = {**os.environ, **launch.env}
    words = ["--flag", "", "two words", "$(touch x)", "*", "ünïcode\n"]
    process = await execute(launch.program, *words, env=env, cwd=home, stdout=PIPE)
    out, _ = await process.communicate()

    assert out.decode() == f"{home.resolve()}\n" + "".join(f"{word}|" for word in words)


async def test_the_agent_gets_a_marker_and_nothing_of_the_keepers_settings(processes, home):
    started = await start(processes, "r1", home, tree(), 1)
    seen = environ(started.keeper.agent_pid)
    # The loader holds one more for a moment.
    await eventually(lambda: sorted(os.listdir(f"/proc/{started.keeper.agent_pid}/fd")) == ["0", "1", "2"])
    await processes.end("r1", grace_s=0, from_rung="kill")

    assert seen["SWITCHBOARD_RUN"] == f"{MACHINE}/r1"
    assert not [name for name in seen if name.startswith("SWITCHBOARD_KEEPER")]
    assert "keepers.sock" not in repr(seen)


async def test_the_agent_gets_its_signals_as_they_were_and_a_group_of_its_own(processes, home):
    started = await start(processes, "r1", home, tree(), 1)
    pid, keeper = started.keeper.agent_pid, started.keeper.pid
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    facts = (os.getpgid(pid), os.getsid(pid), os.getsid(keeper))
    await processes.end("r1", grace_s=0, from_rung="kill")

    # Signals 1 to 31: those above belong to libc. Whoever starts tests in the background has SIGQUIT ignored, for all of them.
    ignored = {signum for signum in range(1, 32) if signal.getsignal(signum) is signal.SIG_IGN}
    theirs = {signum for signum in range(1, 32) if int(status["SigIgn"], 16) & 1 << (signum - 1)}
    assert theirs == ignored - {signal.SIGPIPE, signal.SIGXFSZ}  # which Python ignores, and no agent must
    assert int(status["SigBlk"], 16) & 0x7FFFFFFF == 0
    assert facts == (pid, keeper, keeper)


async def test_a_keeper_is_closed_to_processes_of_the_same_user(processes, home):
    """A process that is not dumpable belongs to root in /proc (trivially so where the tests run as root)."""
    started = await start(processes, "r1", home, tree(), 1)
    owners = [os.stat(f"/proc/{pid}/environ").st_uid for pid in (started.keeper.pid, started.keeper.agent_pid)]
    await processes.end("r1", grace_s=0, from_rung="kill")

    assert owners == [0, os.getuid()]


async def test_readers_see_the_agent_go_while_the_keeper_waits_for_what_it_left(processes, home):
    text = "#!/bin/sh\nsetsid sleep $1 </dev/null >/dev/null 2>&1 &\necho done\nexit 4\n"
    started = await start(processes, "r1", home, text, 1)

    assert await started.process.stdout.read() == b"done\n"
    assert await started.keeper.exited == 4
    assert started.process.returncode is None
    emptied = await processes.end("r1", grace_s=30)
    assert (emptied.rung, emptied.processes, emptied.left) == ("terminate", 1, ())
    assert await started.process.wait() == 4


async def test_a_signal_for_the_keeper_is_meant_for_the_agent(processes, home):
    started = await start(processes, "r1", home, "#!/bin/sh\ntrap 'exit 7' TERM\necho up\nread x\n")
    await started.process.stdout.readline()
    started.process.terminate()

    assert await started.process.wait() == 7


async def test_an_agent_that_signals_its_group_does_not_hit_its_keeper(processes, home):
    started = await start(processes, "r1", home, "#!/bin/sh\nkill -KILL 0\n")

    assert await started.keeper.exited == -9
    assert await started.process.wait() == -9
    assert not started.keeper.lost.is_set()


async def test_a_program_that_cannot_be_started_is_one_sentence(processes, home):
    launch = processes.launch("r1", 1, home / "missing")
    env = {**os.environ, **launch.env}
    process = await execute(launch.program, env=env, stderr=PIPE)
    with pytest.raises(KeeperFailed, match=r"^run r1: cannot start .*/missing: No such file or directory$"):
        await processes.keeper("r1", 10)
    _, err = await process.communicate()

    assert process.returncode == 127
    assert err.decode() == f"switchboard keeper: cannot start {home}/missing: No such file or directory\n"


def started_without_a_daemon(home: Path, path: str, secret: str) -> subprocess.CompletedProcess[str]:
    word = token()
    settings = {"SOCKET": path, "SECRET": secret, "PROGRAM": str(program(home, tree()))}
    env = {**os.environ, **{f"SWITCHBOARD_KEEPER_{name}": value for name, value in settings.items()}}
    command = [sys.executable, "-I", "-S", KEEPER, f"{MACHINE}/r1", word]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert alive(word) == []
    return done


def test_without_a_daemon_nothing_is_started(home):
    done = started_without_a_daemon(home, str(home / "none.sock"), "x")

    assert done.returncode == 75
    assert done.stderr == (
        f"switchboard keeper: the daemon does not answer at {home}/none.sock (No such file or directory); "
        "the agent was not started\n"
    )


async def test_a_wrong_secret_starts_nothing(processes, home):
    launch = processes.launch("r1", 1, home / "x")
    path = launch.env["SWITCHBOARD_KEEPER_SOCKET"]
    done = await asyncio.to_thread(started_without_a_daemon, home, path, "not it")

    assert done.returncode == 75
    assert done.stderr == "switchboard keeper: the daemon does not know this run; the agent was not started\n"


async def test_a_secret_works_once_and_only_for_a_process_that_the_daemon_started(processes, home):
    launch = processes.launch("r1", 1, program(home, tree()))
    thief = ["setsid", sys.executable, "-I", "-S", str(KEEPER), f"{MACHINE}/r1", word := token()]
    env = {**os.environ, **launch.env}
    stolen = await execute(*thief, env=env, stderr=PIPE)
    _, err = await stolen.communicate()
    assert (stolen.returncode, sleepers(word)) == (75, [])
    assert b"does not know this run" in err

    rightful = await execute(launch.program, word, env=env)
    await processes.keeper("r1", 10)
    again = await execute(launch.program, token(), env=env, stderr=PIPE)
    assert await again.wait() == 75
    await processes.end("r1", grace_s=0, from_rung="kill")
    assert await rightful.wait() == -9


async def test_a_run_that_was_stopped_before_its_keeper_called_in_starts_nothing(processes, home):
    launch = processes.launch("r1", 1, program(home, tree()))
    emptied = await processes.end("r1", grace_s=1)
    process = await execute(launch.program, word := token(), env={**os.environ, **launch.env}, stderr=PIPE)

    assert await process.wait() == 75
    assert (emptied.rung, emptied.processes, sleepers(word)) == ("none", 0, [])
    with pytest.raises(KeeperFailed, match="stopped before"):
        await processes.keeper("r1", 1)


async def test_a_flood_of_strangers_does_not_keep_keepers_out(processes, home):
    launch = processes.launch("r1", 1, program(home, tree()))
    path = launch.env["SWITCHBOARD_KEEPER_SOCKET"]
    crowd = []
    for words in (b"", b"{}\n", b"[1]\n", b"\xff\xfe\n", b'{"hello": "x/r1", "secret": {"a": []}}\n', b"x" * 70_000):
        for _ in range(20):
            crowd.append(stranger := socket.socket(socket.AF_UNIX))
            stranger.connect(path)
            stranger.setblocking(False)
            stranger.send(words) if words else None
            await asyncio.sleep(0)
    process = await execute(launch.program, token(), env={**os.environ, **launch.env})
    await processes.keeper("r1", 10)
    for stranger in crowd:
        stranger.close()
    await processes.end("r1", grace_s=0, from_rung="kill")

    assert await process.wait() == -9


async def test_the_socket_is_for_its_owner_alone(processes, home):
    path = processes.launch("r1", 1, home / "x").env["SWITCHBOARD_KEEPER_SOCKET"]

    assert oct(os.stat(path).st_mode)[-3:] == "600"
    assert oct(os.stat(Path(path).parent).st_mode)[-3:] == "700"


async def test_a_home_whose_path_is_too_long_for_a_socket_still_works(home):
    far = home.joinpath(*["a-folder-with-a-long-name"] * 5)
    async with Processes(MACHINE, far, SystemClock()) as processes:
        started = await start(processes, "r1", home, tree(), 1)
        emptied = await processes.end("r1", grace_s=30)
        path = Path(processes.launch("r2", 1, far).env["SWITCHBOARD_KEEPER_SOCKET"])

    assert (emptied.rung, emptied.left, await started.process.wait()) == ("terminate", (), -15)
    assert not path.parent.exists()


async def test_the_ladder_is_climbed_when_the_line_breaks(processes, home):
    """An agent that heeds SIGINT is given the time to end in good order, and its word is the exit code."""
    text = "#!/bin/sh\ntrap 'echo bye; exit 6' INT\necho up\nwhile :; do sleep 0.01; done\n"
    started = await start(processes, "r1", home, text)
    await started.process.stdout.readline()
    processes.forget("r1")

    assert await started.process.stdout.read() == b"bye\n"
    assert await started.process.wait() == 6


async def test_a_paused_tree_is_killed_when_the_line_breaks(processes, home):
    text = "#!/bin/sh\ntrap 'echo bye; exit 6' INT TERM\necho up\nwhile :; do sleep 0.01; done\n"
    started = await start(processes, "r1", home, text)
    await started.process.stdout.readline()
    os.kill(started.keeper.agent_pid, signal.SIGSTOP)
    await eventually(lambda: state_of(started.keeper.agent_pid) == "T")
    processes.forget("r1")

    assert await started.process.stdout.read() == b""
    assert await started.process.wait() == -9


async def test_a_broken_line_ends_every_escapee(processes, home):
    started = await start(
        processes, "r1", home, tree("deaf", "own session", "deaf, double fork, emptied environment"), 4
    )
    try:
        processes.forget("r1")
        await eventually(lambda: alive(started.token) == [] and is_dead(started.keeper.pid))
        assert await started.process.wait() == -2  # of the agent itself, which sleep(1) was
    finally:
        murder(started.token)


async def test_silence_is_how_a_stopped_keeper_is_found_out(processes, home, monkeypatch):
    monkeypatch.setattr("daemon.keepers.PING_EVERY_S", 0.05)
    processes._keepers._tick()  # the first ping was due in two seconds
    started = await start(processes, "r1", home, tree(), 1)
    first = started.keeper._heard_ms
    await eventually(lambda: started.keeper._heard_ms > first)
    assert not started.keeper.lost.is_set()
    started.kill_keeper(signal.SIGSTOP)
    await asyncio.wait_for(started.keeper.lost.wait(), 10)
    emptied = await processes.end("r1", grace_s=0, from_rung="kill")

    assert (emptied.left, alive(started.token)) == ((), [])
    assert await started.process.wait() == -9
