"""Whole trees of real processes, ended by a real daemon; every survivor is counted by an observer outside of it."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from helpers import small_daemon
from helpers.eventually import eventually
from helpers.processes import (
    ALL_TWENTY,
    KINDS,
    MACHINE,
    Started,
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
    zombie_children,
)

from daemon import proctable
from daemon.clock import SystemClock
from daemon.process import Grade, KeeperFailed, Processes

CLOCK = SystemClock()
MODES = pytest.mark.parametrize("mode", ["cgroups", "free"])


@pytest.fixture(autouse=True)
async def pipes_closed():
    yield
    await close_pipes()


@pytest.fixture
def home():
    with tempfile.TemporaryDirectory(prefix="swb") as folder:
        yield Path(folder)


@pytest.fixture(params=["cgroups", "free"])
async def processes(request, home) -> AsyncIterator[Processes]:
    async with Processes(MACHINE, home / "home", CLOCK, cgroups=request.param == "cgroups") as processes:
        yield processes


def best(processes: Processes) -> Grade:
    return Grade.CONTAINED if processes._cgroups else Grade.TRACED


async def nothing_is_left(processes: Processes, started: Started) -> None:
    assert alive(started.token) == []
    assert await processes.look(started.keeper.run) == frozenset()
    await started.process.wait()
    assert zombie_children() == []


def in_a_cgroup(test: Callable[[Processes, Path], Awaitable[None]]) -> Callable[[Path], Awaitable[None]]:
    """Run *test* with this process's cgroups. A plain login may make none: there the promise that is left is proven, that the
    daemon notices, ends every kind of process all the same, and claims no better proof than it has."""

    async def run(home: Path) -> None:
        async with Processes(MACHINE, home / "home", CLOCK) as processes:
            if processes._cgroups:
                await test(processes, home)
                return
            started = await start(processes, "r1", home, ALL_TWENTY, 20)
            emptied = await processes.end("r1", grace_s=0, from_rung="kill")
            assert (emptied.grade, emptied.rung, emptied.processes, emptied.left) == (Grade.TRACED, "kill", 20, ())
            await nothing_is_left(processes, started)

    return run


# One kind at a time, and all of them


@pytest.mark.parametrize("kind", KINDS)
async def test_no_kind_of_process_escapes(processes, home, kind):
    started = await start(processes, "r1", home, tree(kind), 2)
    seen = await processes.look("r1")
    named = f"keeper.py\0{MACHINE}/r1\0".encode() in Path(f"/proc/{started.keeper.pid}/cmdline").read_bytes()
    emptied = await processes.end("r1", grace_s=0.3 if kind.startswith("deaf") else 30)

    assert named  # so that people see in ps(1) what it is, and the next daemon finds it
    assert {started.keeper.pid, started.keeper.agent_pid, *sleepers(started.token)} <= seen
    assert emptied.rung == ("kill" if kind.startswith("deaf") else "terminate")
    assert (emptied.grade, emptied.processes, emptied.left) == (best(processes), 2, ())
    await nothing_is_left(processes, started)


@pytest.mark.parametrize("from_rung", ["interrupt", "terminate", "kill"])
async def test_twenty_of_all_kinds_are_gone(processes, home, from_rung):
    began = CLOCK.boot_ms()
    started = await start(processes, "r1", home, ALL_TWENTY, 20)
    emptied = await processes.end("r1", grace_s=0.2, from_rung=from_rung, since_ms=began)

    assert (emptied.grade, emptied.rung, emptied.processes, emptied.left) == (best(processes), "kill", 20, ())
    assert 0 < emptied.took_ms <= CLOCK.boot_ms() - began
    assert await started.keeper.exited in {-signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL}
    assert not started.keeper.lost.is_set()
    await nothing_is_left(processes, started)


async def test_what_has_ended_by_itself_needs_no_rung(processes, home):
    started = await start(processes, "r1", home, "#!/bin/sh\nexit 0\n")
    await started.process.wait()
    emptied = await processes.end("r1", grace_s=1)

    assert (emptied.rung, emptied.processes, emptied.left) == ("none", 0, ())


async def test_what_was_never_started_is_empty(processes):
    assert (await processes.end("never", grace_s=1)).rung == "none"
    assert await processes.look("never") == frozenset()


async def test_many_runs_end_at_once_and_the_others_work_on(processes, home):
    runs = [await start(processes, f"r{number}", home, tree("own session", "deaf"), 3) for number in range(6)]
    ended = await asyncio.gather(*(processes.end(f"r{number}", grace_s=0.1) for number in range(5)))

    assert [(emptied.processes, emptied.left) for emptied in ended] == [(3, ())] * 5
    for started in runs[:5]:
        assert alive(started.token) == []
    assert len(sleepers(runs[5].token)) == 3
    await processes.end("r5", grace_s=0, from_rung="kill")
    for started in runs:
        await nothing_is_left(processes, started)


# Trees that fight


async def test_what_starts_itself_again_when_it_is_killed_is_held_first(processes, home):
    phoenix = "(setsid sh -c \"trap '' TERM INT HUP; while :; do sleep $T; done\" &)\n"
    started = await start(processes, "r1", home, tree(last=phoenix * 5 + 'exec sleep "$T"'), 6)
    emptied = await processes.end("r1", grace_s=0.2)

    assert (emptied.rung, emptied.left) == ("kill", ())
    await nothing_is_left(processes, started)


async def test_a_bounded_fork_bomb_is_emptied_while_it_goes_on(processes, home):
    bomb = 'bomb() { n=0; while [ $n -lt 60 ]; do (setsid sleep "$T" &) ; n=$((n+1)); done; }\nfor i in 1 2 3 4; do bomb & done\n'
    started = await start(processes, "r1", home, tree(last=bomb + 'exec sleep "$T"'), 30)
    emptied = await processes.end("r1", grace_s=0, from_rung="kill")

    assert emptied.left == ()
    assert emptied.processes >= 30
    await nothing_is_left(processes, started)


async def test_a_process_whose_first_thread_has_ended_is_no_zombie(processes, home):
    """It shows as one, and works on."""
    code = (
        "import ctypes, signal, threading, time, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "threading.Thread(target=time.sleep, args=(float(sys.argv[1]),)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    script = program(home, code)
    started = await start(processes, "r1", home, f'#!/bin/sh\nexec {sys.executable} {script} "$1"\n')
    agent = started.keeper.agent_pid
    await eventually(lambda: state_of(agent) == "Z")
    assert agent in await processes.look("r1")
    emptied = await processes.end("r1", grace_s=0.1)

    assert (emptied.rung, emptied.left, is_dead(agent)) == ("kill", (), True)
    assert os.path.exists(f"/proc/{agent}/task") is False or len(os.listdir(f"/proc/{agent}/task")) <= 1
    await nothing_is_left(processes, started)


async def test_an_agent_that_has_stopped_itself_is_ended(processes, home):
    started = await start(processes, "r1", home, tree(last="kill -STOP $$"))
    await eventually(lambda: state_of(started.keeper.agent_pid) == "T")
    emptied = await processes.end("r1", grace_s=30)

    assert (emptied.rung, emptied.left) == ("kill", ())
    await nothing_is_left(processes, started)


@in_a_cgroup
async def test_a_tree_that_somebody_has_frozen_is_killed_and_never_let_go_on(caged, home):
    marks = home / "marks"
    work = f"trap 'echo bye >> {marks}; exit 6' INT TERM; while :; do echo x >> {marks}; sleep 0.001; done"
    started = await start(caged, "r1", home, tree(last=work))
    group = caged._trees.cage("r1").tree
    await eventually(lambda: marks.exists() and marks.stat().st_size > 4)
    (group / "cgroup.freeze").write_text("1")
    await eventually(lambda: "frozen 1" in (group / "cgroup.events").read_text())
    size = marks.stat().st_size
    emptied = await caged.end("r1", grace_s=30)

    assert (emptied.rung, emptied.left, marks.stat().st_size) == ("kill", (), size)
    await nothing_is_left(caged, started)


# Each link forks the next and is gone: whoever is in a list of processes is dead when its turn comes. It ends with its file.
CHAIN = """\
#!{python}
import os, signal
os.close(os.open({links!r}, os.O_CREAT | os.O_WRONLY))
if os.fork():
    signal.pause()
for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(signum, signal.SIG_IGN)
{away}
while True:
    links = os.open({links!r}, os.O_WRONLY | os.O_APPEND)
    os.write(links, b"x")
    os.close(links)
    if os.fork():
        os._exit(0)
"""


@pytest.mark.parametrize("away", ["", "os.setsid()"], ids=["same session", "own session"])
@pytest.mark.parametrize("from_rung", ["terminate", "kill"])
async def test_a_chain_of_processes_that_each_start_the_next_and_end_is_not_taken_for_an_empty_tree(
    processes, home, from_rung, away
):
    links = home / "links"
    text = CHAIN.format(python=sys.executable, away=away, links=str(links))
    started = await start(processes, "r1", home, text)
    await eventually(lambda: links.exists() and links.stat().st_size > 20)
    emptied = await processes.end("r1", grace_s=0.2, from_rung=from_rung)
    size = links.stat().st_size

    assert (emptied.grade, emptied.rung, emptied.left) == (best(processes), "kill", ())
    await nothing_is_left(processes, started)
    assert links.stat().st_size == size  # nobody has gone on


@in_a_cgroup
async def test_an_agent_that_moved_itself_to_another_cgroup_is_found_and_the_grade_says_so(caged, home):
    elsewhere = caged._cgroups.base.parent / f"elsewhere-{os.getpid()}"
    elsewhere.mkdir()
    try:
        move = f"echo $$ > {elsewhere}/cgroup.procs\n"
        started = await start(caged, "r1", home, tree("deaf", last=move + 'setsid sleep "$T" &\nexec sleep "$T"'), 3)
        emptied = await caged.end("r1", grace_s=0, from_rung="kill")

        assert (emptied.grade, emptied.rung, emptied.processes, emptied.left) == (Grade.TRACED, "kill", 3, ())
        await nothing_is_left(caged, started)
    finally:
        elsewhere.rmdir()


@in_a_cgroup
async def test_a_nameless_child_that_moved_to_another_cgroup_is_found_when_its_parent_is_killed_in_its_own(caged, home):
    elsewhere = caged._cgroups.base.parent / f"elsewhere-{os.getpid()}"
    elsewhere.mkdir()
    try:
        move = f"(echo 0 > {elsewhere}/cgroup.procs; exec env -i setsid sleep $T) &\n"
        started = await start(caged, "r1", home, tree("deaf", last=move + 'sleep "$T"; exit'), 3)
        emptied = await caged.end("r1", grace_s=0, from_rung="kill")

        assert (emptied.grade, emptied.rung, emptied.processes, emptied.left) == (Grade.TRACED, "kill", 4, ())
        await nothing_is_left(caged, started)
    finally:
        elsewhere.rmdir()


@in_a_cgroup
async def test_groups_that_the_agent_made_below_its_own_are_emptied_and_taken_away(caged, home):
    below = caged._trees.cage("r1").tree / "own" / "deeper"
    move = f"mkdir -p {below}; echo $$ > {below}/cgroup.procs\n"
    started = await start(caged, "r1", home, tree(last=move + 'exec sleep "$T"'), 1)
    emptied = await caged.end("r1", grace_s=0, from_rung="kill")
    caged.forget("r1")

    assert (emptied.grade, emptied.processes, emptied.left) == (Grade.CONTAINED, 1, ())
    assert not caged._trees.cage("r1").path.exists()
    await nothing_is_left(caged, started)


# Keepers that are dead, stopped or in the wrong hands


async def test_a_killed_keepers_orphans_come_to_the_daemon_and_die(processes, home):
    started = await start(processes, "r1", home, ALL_TWENTY, 20)
    started.kill_keeper()
    await asyncio.wait_for(started.keeper.lost.wait(), 10)
    assert await started.keeper.exited is None
    await eventually(lambda: is_dead(started.keeper.pid))  # its line breaks while it is still dying
    assert len(await processes.look("r1")) == 20
    emptied = await processes.end("r1", grace_s=0.1)

    assert (emptied.rung, emptied.processes, emptied.left) == ("kill", 20, ())
    assert await started.process.wait() == -9  # not stolen from whoever waits for it
    await nothing_is_left(processes, started)


async def test_the_daemons_own_children_are_not_taken_for_orphans(processes, home):
    word = token()
    before = await execute("sleep", word, start_new_session=True)
    await processes.look("r1")  # seen while no keeper was dead
    started = await start(processes, "r1", home, tree("emptied environment"), 2)
    plain = await execute("sleep", word)
    started.kill_keeper()
    emptied = await processes.end("r1", grace_s=0, from_rung="kill")

    assert (emptied.processes, emptied.left, alive(started.token)) == (2, (), [])
    assert len(sleepers(word)) == 2
    for process in (before, plain):
        process.kill()
        assert await process.wait() == -9


@pytest.mark.parametrize("from_rung", ["terminate", "kill"])
async def test_a_stopped_keeper_does_not_hold_the_daemon_up(processes, home, from_rung):
    started = await start(processes, "r1", home, ALL_TWENTY, 20)
    started.kill_keeper(signal.SIGSTOP)
    emptied = await processes.end("r1", grace_s=0.1, from_rung=from_rung)

    assert (emptied.rung, emptied.processes, emptied.left) == ("kill", 20, ())
    assert await started.process.wait() == -9
    await nothing_is_left(processes, started)


async def test_what_a_keeper_says_is_not_proof(processes, home):
    """Words as from a keeper that lies: the agent has ended, nothing is left."""
    started = await start(processes, "r1", home, tree("own session"), 2)
    started.keeper.agent_pid, started.keeper.empty = 1, True
    started.keeper.tell_exit(0)
    emptied = await processes.end("r1", grace_s=30)

    assert (emptied.rung, emptied.processes, emptied.left) == ("terminate", 2, ())
    await nothing_is_left(processes, started)


async def test_two_killed_keepers_leave_nothing(processes, home):
    one, two = [await start(processes, run, home, ALL_TWENTY, 20) for run in ("r1", "r2")]
    one.kill_keeper()
    two.kill_keeper()
    await asyncio.gather(processes.end("r1", grace_s=0.1), processes.end("r2", grace_s=0.1))

    await nothing_is_left(processes, one)
    await nothing_is_left(processes, two)


# No innocent dies


@in_a_cgroup
async def test_the_daemon_or_a_bystander_that_was_pushed_into_the_cgroup_lives(caged, home):
    started = await start(caged, "r1", home, tree("deaf"), 2)
    group = Path(caged._trees.cage("r1").tree, "cgroup.procs")
    bystander = await execute("sleep", token())
    back = Path(f"{caged._cgroups.base.parent}/cgroup.procs")
    try:
        for pid in (bystander.pid, os.getpid()):
            group.write_text(str(pid))
        emptied = await caged.end("r1", grace_s=0, from_rung="kill")

        assert (emptied.processes, emptied.left, alive(started.token)) == (2, (), [])
        assert not is_dead(bystander.pid)
    finally:
        for pid in (bystander.pid, os.getpid()):
            back.write_text(str(pid))
        bystander.kill()
        await bystander.wait()
    await nothing_is_left(caged, started)


async def test_a_forged_marker_only_harms_the_forger(processes, home):
    forge = f"(SWITCHBOARD_RUN={MACHINE}/r1 setsid sleep {(forged := token())} &)\n"
    victim = await start(processes, "r1", home, tree(), 1)
    forger = await start(processes, "r2", home, tree("own session", last=forge + 'exec sleep "$T"'), 2)
    await eventually(lambda: sleepers(forged))
    emptied = await processes.end("r1", grace_s=30)

    assert (emptied.processes <= 2, alive(victim.token)) == (True, [])
    assert len(sleepers(forger.token)) == 2
    await processes.end("r2", grace_s=30)
    assert alive(forged) == []


async def test_a_marker_of_another_machine_or_of_no_run_is_left_alone(processes):
    words = {f"another-{MACHINE}/r1": token(), f"{MACHINE}/r12": token(), f"{MACHINE}/r1/../r2": token()}
    others = [
        await execute("sleep", word, env={**os.environ, "SWITCHBOARD_RUN": marker}) for marker, word in words.items()
    ]
    await eventually(lambda: all(sleepers(word) for word in words.values()))
    await processes.end("r1", grace_s=0, from_rung="kill")
    await processes.sweep(["r1"])

    assert all(sleepers(word) for word in words.values())
    for other in others:
        other.kill()
        await other.wait()


async def test_a_signal_never_goes_to_whoever_took_over_a_pid():
    process = await execute("sleep", token())
    seen = proctable.read([process.pid])[process.pid]
    proctable.signal_all([(seen.pid, seen.start - 1)], signal.SIGKILL)
    assert not is_dead(process.pid)
    proctable.signal_all([seen.born], signal.SIGKILL)

    assert await process.wait() == -9
    assert await proctable.gone([seen.born], 5)


# The daemon dies


@contextlib.asynccontextmanager
async def daemon_with(
    home: Path, mode: str, runs: int, loop: str = "asyncio"
) -> AsyncIterator[tuple[int, list[int], list[str]]]:
    """Run a small daemon with trees of all kinds; yield its pid, its keepers and the tokens of its runs."""
    tokens = [token() for _ in range(runs)]
    arguments = [MACHINE, str(home / "home"), str(program(home, ALL_TWENTY)), mode, loop, *tokens]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])}
    daemon = await execute(sys.executable, small_daemon.__file__, *arguments, stdin=PIPE, stdout=PIPE, env=env)
    try:
        keepers = [int(await daemon.stdout.readline()) for _ in tokens]
        assert await daemon.stdout.readline() == b"standing\n"
        for word in tokens:
            await eventually(lambda word=word: len(sleepers(word)) == 20, message=f"a tree of 20 with {word}")
        yield daemon.pid, keepers, tokens
    finally:
        with contextlib.suppress(ProcessLookupError):
            daemon.kill()
        await daemon.wait()
        for word in tokens:
            murder(word)


@MODES
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_nothing_outlives_a_killed_daemon(home, mode, loop):
    async with daemon_with(home, mode, 2, loop) as (pid, keepers, tokens):
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: [alive(word) for word in tokens] == [[], []])
        await eventually(lambda: all(is_dead(keeper) for keeper in keepers))


@MODES
async def test_the_next_daemon_waits_for_keepers_that_still_climb(home, mode):
    async with daemon_with(home, mode, 2) as (pid, _, tokens):
        os.kill(pid, signal.SIGKILL)
        async with Processes(MACHINE, home / "home", CLOCK, cgroups=mode == "cgroups") as processes:
            swept = await processes.sweep(["run0", "run1", "run2"])

        assert [alive(word) for word in tokens] == [[], []]
        assert {run: emptied.left for run, emptied in swept.items()} == {"run0": (), "run1": (), "run2": ()}
        assert (swept["run2"].rung, swept["run2"].processes) == ("none", 0)


@MODES
async def test_the_next_daemon_ends_what_stopped_keepers_hold(home, mode):
    async with daemon_with(home, mode, 1) as (pid, keepers, tokens):
        os.kill(keepers[0], signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        async with Processes(MACHINE, home / "home", CLOCK, cgroups=mode == "cgroups") as processes:
            swept = await processes.sweep(["run0"])

        assert (alive(tokens[0]), swept["run0"].rung, swept["run0"].left) == ([], "kill", ())
        assert swept["run0"].processes >= 20
        assert is_dead(keepers[0])


@in_a_cgroup
async def test_the_next_daemon_finds_emptied_environments_in_the_cgroup_when_the_keeper_died_too(caged, home):
    """And it finds the runs that its journal does not name."""
    (home / "old").mkdir()
    async with daemon_with(home / "old", "cgroups", 1) as (pid, keepers, tokens):
        os.kill(keepers[0], signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        os.kill(keepers[0], signal.SIGKILL)
        async with Processes(MACHINE, home / "old" / "home", CLOCK) as processes:
            swept = await processes.sweep([])

        assert (alive(tokens[0]), swept["run0"].grade, swept["run0"].left) == ([], Grade.CONTAINED, ())


async def test_the_next_daemon_finds_markers_when_the_keeper_died_too(home):
    async with daemon_with(home, "free", 1) as (pid, keepers, tokens):
        os.kill(keepers[0], signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        os.kill(keepers[0], signal.SIGKILL)
        marked = [process for process in sleepers(tokens[0]) if "SWITCHBOARD_RUN" in environ(process)]
        async with Processes(MACHINE, home / "home", CLOCK, cgroups=False) as processes:
            swept = await processes.sweep(["run0"])

        assert len(marked) > 10
        assert all(is_dead(process) for process in marked)
        assert (swept["run0"].grade, swept["run0"].left) == (Grade.BEST_EFFORT, ())


@MODES
@pytest.mark.parametrize(
    "point",
    ["process.launched", "process.keeper.welcomed", "process.signalled", "process.proven"],
)
async def test_a_daemon_killed_at_any_point_of_a_run_leaves_nothing(home, mode, point):
    word = token()
    arguments = [MACHINE, str(home / "home"), str(program(home, ALL_TWENTY)), mode, "asyncio", word]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])}
    daemon = await execute(
        sys.executable, small_daemon.__file__, *arguments, stdin=PIPE, env={**env, "SWITCHBOARD_FAULT": point}
    )
    daemon.stdin.write(b"end\n")
    try:
        assert await daemon.wait() == -signal.SIGKILL
        await eventually(lambda: alive(word) == [], within=20)
    finally:
        murder(word)


# Housekeeping


async def test_descriptors_do_not_leak(processes, home):
    async def round_(number: int) -> None:
        started = await start(processes, f"r{number}", home, tree("own session"), 2)
        await processes.end(f"r{number}", grace_s=0, from_rung="kill")
        processes.forget(f"r{number}")
        await started.process.wait()
        await close_pipes()

    await round_(0)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1, 4):
        await round_(number)

    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_a_tree_is_ended_with_the_last_few_descriptors(processes, home):
    started = await start(processes, "r1", home, ALL_TWENTY, 20)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_ = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_ + 12, before[1]))
    try:
        emptied = await processes.end("r1", grace_s=0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    # Shells on their way to become sleep(1) are counted too, where they were met.
    assert (emptied.rung, emptied.processes >= 20, emptied.left) == ("kill", True, ())
    await nothing_is_left(processes, started)


async def test_a_run_may_start_again_once_it_has_been_ended_and_not_before(processes, home):
    started = await start(processes, "r1", home, tree(), 1)
    with pytest.raises(KeeperFailed, match="attempt 2 cannot start while processes of an earlier one live"):
        processes.launch("r1", 2, home / "x")
    await processes.end("r1", grace_s=30)
    await nothing_is_left(processes, started)
    again = await start(processes, "r1", home, tree(), 1)
    emptied = await processes.end("r1", grace_s=30)

    assert (emptied.processes, emptied.left) == (1, ())
    await nothing_is_left(processes, again)


@pytest.mark.parametrize("run", ["", "../x", "a/b", ".", "..", "a\nb", "x" * 101, "a\0b", "ü"])
async def test_a_name_that_is_no_run_id_is_refused_in_one_sentence(processes, home, run):
    with pytest.raises(KeeperFailed, match="cannot be the id of a run"):
        processes.launch(run, 1, home / "x")


async def test_cgroups_are_taken_away_with_their_daemon(home):
    async with Processes(MACHINE, home / "home", CLOCK) as processes:
        started = await start(processes, "r1", home, tree(), 1)
        base = processes._cgroups.base if processes._cgroups else None
        assert base is None or (base / "r1").exists()
        await processes.end("r1", grace_s=30)
        processes.forget("r1")
        await started.process.wait()

    assert base is None or not base.exists()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
@MODES
async def test_a_daemon_that_ends_in_good_order_ends_what_lost_keepers_held(home, mode, signum, monkeypatch):
    monkeypatch.setattr("daemon.keepers.PING_EVERY_S", 0.05)
    async with Processes(MACHINE, home / "home", CLOCK, cgroups=mode == "cgroups") as processes:
        started = await start(processes, "r1", home, ALL_TWENTY, 20)
        started.kill_keeper(signum)
        await asyncio.wait_for(started.keeper.lost.wait(), 20)

    assert alive(started.token) == []
    assert await started.process.wait() == -9


async def test_a_daemon_that_ends_in_good_order_leaves_nothing_to_do(processes, home):
    started = await start(processes, "r1", home, ALL_TWENTY, 20)
    await processes.__aexit__(None, None, None)

    await eventually(lambda: alive(started.token) == [])
    assert await started.process.wait() == -2


async def test_a_subreaper_is_only_what_the_daemon_is(home):
    before = proctable.become_subreaper(False)
    async with Processes(MACHINE, home / "home", CLOCK):
        assert proctable.become_subreaper(True)
    assert not proctable.become_subreaper(before)
