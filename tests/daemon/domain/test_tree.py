"""Who belongs to a run, over any process table: no run's agent can have an innocent process killed."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.tree import Home, Known, Seen, ancestors, members

INIT, SHELL, DAEMON, KEEPER_A, KEEPER_B = 1, 10, 20, 30, 40
A, B = "m1/a", "m1/b"


def seen(pid: int, parent: int, **more: object) -> Seen:
    return replace(Seen(pid, parent, pid, pid * 7, "S", f"p{pid}"), **more)  # type: ignore[arg-type]


def table_of(*processes: Seen) -> dict[int, Seen]:
    base = [
        seen(INIT, 0),
        seen(SHELL, INIT),
        seen(DAEMON, SHELL, session=SHELL),
        seen(KEEPER_A, DAEMON),
        seen(KEEPER_B, DAEMON),
    ]
    return {process.pid: process for process in (*base, *processes)}


HOME = Home(DAEMON, SHELL, frozenset({(KEEPER_A, KEEPER_A * 7), (KEEPER_B, KEEPER_B * 7)}))
RUN_A = Known(A, (KEEPER_A, KEEPER_A * 7), ours=True)


@st.composite
def forests(draw: st.DrawFn) -> dict[int, Seen]:
    """Any processes below any others, with any claims; some of them zombies."""
    processes: list[Seen] = []
    pids = [INIT, SHELL, DAEMON, KEEPER_A, KEEPER_B]
    for pid in range(100, 100 + draw(st.integers(0, 25))):
        parent = draw(st.sampled_from(pids))
        session = draw(st.sampled_from([pid, SHELL, parent]))
        gone = draw(st.booleans())
        claim = draw(st.sampled_from(["", "", A, B, "other/x"]))
        processes.append(seen(pid, parent, session=session, gone=gone, claim=claim))
        pids.append(pid)
    return table_of(*processes)


def below(table: dict[int, Seen], pid: int) -> set[int]:
    return {other for other in table if pid in ancestors(table, other)}


@given(forests(), st.sets(st.integers(1, 130)), st.booleans())
def test_the_daemon_and_whatever_it_lives_under_are_never_part_of_a_run(table, caged, keeper_lives):
    known = replace(RUN_A, caged=frozenset(caged))
    if not keeper_lives:
        del table[KEEPER_A]
    for pid in (INIT, SHELL, DAEMON):
        claiming = {**table, pid: replace(table[pid], claim=A)}
        found = members(claiming, known, HOME)
        assert not found.keys() & {INIT, SHELL, DAEMON, KEEPER_B}


@given(forests())
def test_everything_alive_below_the_keeper_is_the_runs(table):
    found = members(table, RUN_A, HOME)

    assert found.keys() >= {pid for pid in below(table, KEEPER_A) if not table[pid].gone}


@given(forests(), st.sets(st.integers(100, 130)), st.booleans(), st.booleans())
def test_another_runs_processes_are_only_taken_for_what_they_say_themselves(table, caged, keeper_lives, ours):
    """Being pushed into the run's cgroup from outside does not make a process of another run the run's."""
    if not keeper_lives:
        del table[KEEPER_A]
    found = members(table, replace(RUN_A, caged=frozenset(caged), ours=ours), HOME)

    for pid in found.keys() & below(table, KEEPER_B):
        assert any(table[above].claim == A for above in ancestors(table, pid))


@given(forests(), st.sets(st.integers(100, 130)))
def test_a_stranger_in_the_cgroup_is_spared_while_the_keeper_vouches_for_its_own(table, caged):
    found = members(table, replace(RUN_A, caged=frozenset(caged)), HOME)

    for pid in found.keys() - below(table, KEEPER_A):
        assert any(table[above].claim == A for above in ancestors(table, pid))


@given(forests(), st.data())
def test_whoever_was_just_killed_still_tells_whose_its_children_are(table, data):
    whole = members(table, RUN_A, HOME).keys()
    struck = data.draw(st.sets(st.sampled_from(sorted(whole)))) - {KEEPER_A}
    rest = {pid: process for pid, process in table.items() if pid not in struck}

    assert members(rest, replace(RUN_A, struck=frozenset(struck)), HOME).keys() == whole - struck


def test_what_an_earlier_daemon_left_is_told_by_the_cgroup_alone():
    table = table_of(seen(200, INIT), seen(201, 200), seen(202, INIT), seen(203, KEEPER_B))
    left = Known(A, caged=frozenset({200, 203, DAEMON}))

    assert members(table, left, HOME).keys() == {200, 201}


@given(forests())
def test_the_dead_are_nobody(table):
    assert not any(process.gone for process in members(table, RUN_A, HOME).values())


def test_a_recycled_pid_is_a_stranger():
    table = table_of(seen(200, INIT, start=2))
    table[KEEPER_A] = replace(table[KEEPER_A], start=99, parent=INIT)

    assert members(table, replace(RUN_A, before=frozenset({(200, 1)})), HOME) == {}


def test_a_process_seen_in_the_tree_before_is_still_the_runs_wherever_it_hides():
    table = table_of(seen(200, INIT, start=1), seen(201, 200))

    assert members(table, replace(RUN_A, before=frozenset({(200, 1)})), HOME).keys() == {KEEPER_A, 200, 201}


def test_orphans_come_to_the_daemon_when_a_keeper_is_killed_and_its_own_children_do_not_count():
    table = table_of(seen(200, DAEMON), seen(201, 200), seen(202, DAEMON, session=SHELL), seen(203, DAEMON))
    del table[KEEPER_A]
    home = replace(HOME, started=frozenset({(203, 203 * 7)}))

    assert members(table, RUN_A, home).keys() == {200, 201}
    assert members(table_of(seen(200, DAEMON)), RUN_A, home).keys() == {KEEPER_A}
