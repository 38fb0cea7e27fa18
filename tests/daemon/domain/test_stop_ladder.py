"""What must hold of every climb, whatever is seen on the way."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.stop_ladder import LADDER, MOVES, PATIENCE_MS, Do, Rung, Sight, Walk

SEEN = [
    sight for sight in Sight if sight is not Sight.OVERDUE
]  # what a look can say; lateness is the walk's own finding
ALIVE = [sight for sight in SEEN if sight is not Sight.EMPTY]
HEIGHT = {Rung.NONE: 0, Rung.INTERRUPT: 1, Rung.TERMINATE: 2, Rung.KILL: 3}
first_rungs = st.sampled_from(LADDER)
steps = st.lists(st.tuples(st.sampled_from(SEEN), st.integers(0, 3_000)), max_size=30)


def test_every_rung_has_an_answer_to_every_sight():
    assert {(rung, sight) for rung, row in MOVES.items() for sight in row} == {(r, s) for r in LADDER for s in Sight}


@given(first_rungs, steps)
def test_a_walk_never_goes_down(first, seen):
    walk, now = Walk(first), 0
    for sight, later in seen:
        now += later
        after, _ = walk.take(sight, now)
        assert HEIGHT[after.rung] >= HEIGHT[walk.rung]
        assert after.rung is Rung.NONE or HEIGHT[after.rung] >= HEIGHT[first]
        walk = after


@given(first_rungs, steps)
def test_an_empty_tree_is_always_the_end_and_nothing_else_is_done(first, seen):
    walk, now = Walk(first), 0
    for sight, later in seen:
        now += later
        walk, do = walk.take(sight, now)
        assert (do is Do.DONE) == (sight is Sight.EMPTY)


@given(first_rungs, st.lists(st.tuples(st.sampled_from(ALIVE), st.integers(40, 400)), min_size=1, max_size=9))
def test_whatever_lives_is_killed_or_named_within_the_patience_of_the_rungs(first, seen):
    walk, now, do = Walk(first), 0, Do.WAIT
    limit = sum(PATIENCE_MS[rung] for rung in LADDER) + 3 * 400
    for sight, later in itertools.cycle(seen):
        now += later
        walk, do = walk.take(sight, now)
        assert now <= limit
        if do is Do.GIVE_UP:
            break
    assert walk.rung is Rung.KILL


@given(first_rungs, steps)
def test_a_paused_tree_is_killed_and_never_let_go_on(first, seen):
    walk, now = Walk(first), 0
    for sight, later in seen:
        now += later
        walk, do = walk.take(sight, now)
        if sight is Sight.FROZEN:
            assert walk.rung is Rung.KILL
            assert do in (Do.SIGNAL, Do.GIVE_UP)


@given(first_rungs, steps)
def test_each_polite_signal_is_given_once(first, seen):
    walk, now, given_ = Walk(first), 0, []
    for sight, later in seen:
        now += later
        walk, do = walk.take(sight, now)
        if do is Do.SIGNAL:
            given_.append(walk.rung)
        if do in (Do.DONE, Do.GIVE_UP):
            break
    polite = [rung for rung in given_ if rung is not Rung.KILL]
    assert len(polite) == len(set(polite))


def test_nothing_alive_at_the_start_needs_no_rung():
    walk, do = Walk(Rung.TERMINATE).take(Sight.EMPTY, 5)

    assert (walk.rung, do) == (Rung.NONE, Do.DONE)


def test_a_dead_agent_is_not_interrupted():
    walk, do = Walk(Rung.INTERRUPT).take(Sight.HEADLESS, 0)

    assert (walk.rung, do) == (Rung.TERMINATE, Do.SIGNAL)


@pytest.mark.parametrize("sight", ALIVE)
def test_the_kill_is_repeated_for_whoever_was_born_meanwhile(sight):
    walk, _ = Walk(Rung.KILL).take(sight, 0)

    assert walk.take(sight, 50)[1] is Do.SIGNAL
