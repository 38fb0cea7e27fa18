"""A run here is what its machine says, newest first: nobody else's word and no older one changes anything."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from switchboard_rpc.v1 import run_pb2

from daemon.domain.run import RunState as DaemonState
from switchboard.domain.run import FINAL, RESUMABLE, Run, RunState

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ORDERED = Run(id="r-1", machine="m-1", started_at=NOON, changed_at=NOON)
words = st.builds(
    lambda revision, state, minutes: replace(
        ORDERED, revision=revision, state=state, started_at=NOON - timedelta(minutes=minutes)
    ),
    st.integers(0, 9),
    st.sampled_from([state for state in RunState if state is not RunState.ORDERED]),
    st.integers(-5, 5),
)


@given(st.lists(words, max_size=8))
def test_the_newest_word_counts_and_a_start_never_moves_later(said):
    run = ORDERED
    for one in said:
        before = run
        run = run.announced(one)
        assert run.revision >= before.revision
        assert run.started_at <= before.started_at
        assert run.announced(one) == run
    newest = max((one.revision for one in said), default=0)
    assert run.revision == newest
    if newest:
        assert run.state is next(one.state for one in said if one.revision == newest)


@given(words, st.sampled_from(["m-2", ""]))
def test_another_machines_word_changes_nothing(said, machine):
    assert ORDERED.announced(replace(said, machine=machine, revision=99)) is ORDERED


@pytest.mark.parametrize("state", RunState)
def test_a_run_is_active_or_final_and_only_what_was_refused_cannot_be_resumed(state):
    run = replace(ORDERED, state=state)
    assert run.active is (state not in FINAL)
    assert (state in RESUMABLE) == (state in FINAL and state is not RunState.REFUSED)


def test_both_ends_and_the_wire_know_the_same_states():
    wire = {name.removeprefix("RUN_STATE_").lower() for name in run_pb2.RunState.DESCRIPTOR.values_by_name} - {
        "unspecified"
    }
    assert wire == {state.value for state in DaemonState}
    assert wire == {state.value for state in RunState} - {"ordered"}
