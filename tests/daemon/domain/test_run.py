"""What must hold of a run's table, whatever is added to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.errors import IllegalTransition
from daemon.domain.facts import RunRecord
from daemon.domain.run import ENDED, LIVE, MOVES, RunEvent, RunState, after

events = st.lists(st.sampled_from(RunEvent), max_size=30)


def walk(run: RunRecord, story: list[RunEvent]) -> RunRecord:
    for event in story:
        try:
            run = run.take(event)
        except IllegalTransition:
            continue
    return run


def test_every_state_is_in_the_table():
    assert set(MOVES) == set(RunState)


@pytest.mark.parametrize("state", sorted(LIVE))
def test_a_live_run_can_always_be_stopped_lost_or_ended(state):
    assert after("r1", state, RunEvent.STOP_ORDERED) is RunState.STOPPING
    assert after("r1", state, RunEvent.FAILED) in {RunState.FAILED, RunState.STOPPING}
    assert after("r1", state, RunEvent.ENDED_WELL) in {RunState.SUCCEEDED, RunState.STOPPING}
    assert after("r1", state, RunEvent.DAEMON_LOST) in {RunState.INTERRUPTED, RunState.STOPPING}
    assert after("r1", state, RunEvent.TREE_EMPTY) in ENDED


@pytest.mark.parametrize("state", sorted(ENDED))
def test_an_ended_run_can_only_be_resumed(state):
    assert set(MOVES[state]) <= {RunEvent.RESUMED}
    assert set(MOVES[state].values()) <= {RunState.STARTING}


def test_all_but_a_refused_run_can_be_resumed():
    assert {state for state in ENDED if RunEvent.RESUMED in MOVES[state]} == ENDED - {RunState.REFUSED}


@pytest.mark.parametrize("state", sorted(LIVE))
def test_what_an_agent_says_never_ends_a_run(state):
    words = {
        RunEvent.READY,
        RunEvent.TURN_STARTED,
        RunEvent.ASKED,
        RunEvent.SETTLED,
        RunEvent.TURN_ENDED,
    }
    assert {after("r1", state, word) for word in words} <= LIVE


@given(events, events)
def test_a_stop_is_over_only_when_the_tree_is_empty_and_then_the_run_is_stopped(before, later):
    run = walk(RunRecord("r1"), [event for event in before if event is not RunEvent.RESUMED])
    if run.state in ENDED:
        return
    run = run.take(RunEvent.STOP_ORDERED)

    chatter = [event for event in later if event is not RunEvent.TREE_EMPTY]
    assert walk(run, chatter).state is RunState.STOPPING
    assert walk(run, [*chatter, RunEvent.TREE_EMPTY]).state is RunState.STOPPED


@given(events)
def test_an_illegal_move_says_what_it_was_and_changes_nothing(story):
    run = walk(RunRecord("r1", reason="as it was"), story)
    for event in set(RunEvent) - set(MOVES[run.state]):
        with pytest.raises(IllegalTransition, match=f"run r1 is {run.state}: {event}") as raised:
            run.take(event, "another reason")
        assert (raised.value.noun, raised.value.id) == ("run", "r1")
        assert (raised.value.state, raised.value.event) == (run.state, event)
        assert run.reason == "as it was"


def test_a_reason_stays_until_there_is_another():
    run = RunRecord("r1").take(RunEvent.STOP_ORDERED, "ben: wrong branch").take(RunEvent.TREE_EMPTY)

    assert run.reason == "ben: wrong branch"
