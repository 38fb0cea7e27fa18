"""What must hold of a question's life, whatever is added to its table, and however a machine's words arrive."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard.domain.approval import (
    MOVES,
    AlreadyDecided,
    Approval,
    ApprovalState,
    Delivery,
    Event,
    InForce,
    Verdict,
    Vote,
)
from switchboard.domain.errors import Conflict, IllegalTransition
from switchboard.domain.merging import announced, receipted

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FINAL = [state for state in ApprovalState if state is not ApprovalState.OPEN]
OPEN = Approval(
    id="a-1",
    run="r-1",
    machine="m-1",
    attempt=1,
    kind="tool",
    tool="Bash",
    input_json="{}",
    cwd="/src",
    digest="sha256:1",
    opened_at=NOON,
    expires_at=NOON + timedelta(hours=8),
    revision=1,
)


def vote(id="v-1", by="kim", verdict=Verdict.APPROVE, digest="sha256:1", at=NOON):
    return Vote(id=id, by=by, verdict=verdict, at=at, digest=digest, note="because")


votes = st.builds(
    vote,
    id=st.sampled_from(["v-1", "v-2", "v-3"]),
    by=st.sampled_from(["ana", "ben", "kim"]),
    verdict=st.sampled_from(Verdict),
    digest=st.sampled_from(["sha256:1", "sha256:2"]),
    at=st.sampled_from([NOON, NOON + timedelta(hours=9)]),
)
# One machine's own history: open at first, then at most one end, each with the next revision.
histories = st.tuples(st.integers(1, 4), st.sampled_from([None, *FINAL])).map(
    lambda made: [
        *(replace(OPEN, revision=n, title=f"title {n}") for n in range(1, made[0] + 1)),
        *([replace(OPEN, state=made[1], revision=made[0] + 1, reason="its word")] if made[1] else []),
    ]
)


@pytest.mark.parametrize("state", FINAL)
@pytest.mark.parametrize("event", Event)
def test_a_terminal_state_has_no_edge_out_and_an_illegal_move_changes_nothing(state, event):
    ended = replace(OPEN, state=state)
    with pytest.raises(IllegalTransition):
        ended.take(event, NOON)
    assert ended == replace(OPEN, state=state)


def test_every_end_can_be_reached_from_open():
    assert set(MOVES[ApprovalState.OPEN].values()) == set(FINAL)
    assert set(MOVES[ApprovalState.OPEN]) == set(Event)


@given(st.lists(votes, max_size=8))
def test_only_the_first_vote_that_fits_ever_decides(cast):
    approval, decided = OPEN, None
    for one in cast:
        before = approval
        try:
            approval = approval.vote(one)
        except AlreadyDecided:
            assert decided is not None
            approval = approval.late(one)
            assert (approval.state, approval.decision) == (before.state, before.decision)
        except Conflict:
            assert approval == before
        else:
            assert decided is None
            decided = one
            assert (approval.decision, approval.delivery) == (one, Delivery.SENT)
    assert approval.decision == decided
    assert sum(v.counted for v in approval.votes) == (decided is not None)


@given(histories, st.data())
def test_a_machines_words_add_up_the_same_in_any_order_and_however_often(history, data):
    said = data.draw(st.permutations(history + data.draw(st.lists(st.sampled_from(history), max_size=4))))
    record = None
    for one in said:
        before = record
        record = announced(record, one, NOON)
        if before is not None:
            assert record.revision >= before.revision
            assert before.state is ApprovalState.OPEN or record.state is before.state
    last = history[-1]
    assert (record.state, record.revision) == (last.state, last.revision)
    assert announced(record, last, NOON) == record


@given(histories, st.data())
def test_no_announcement_ever_undoes_a_decision(history, data):
    decided = OPEN.vote(vote())
    record = decided
    for one in data.draw(st.permutations(history)):
        record = announced(record, one, NOON)
    assert (record.state, record.votes, record.decision) == (decided.state, decided.votes, decided.decision)
    if history[-1].state in (ApprovalState.EXPIRED, ApprovalState.WITHDRAWN):
        assert (record.delivery, record.in_force.verdict) == (Delivery.REFUSED, history[-1].state)


@given(st.permutations([Delivery.ACCEPTED, Delivery.APPLIED]), st.booleans())
def test_receipts_of_the_decision_on_record_add_up_in_any_order(order, twice):
    record = OPEN.vote(vote())
    force = InForce("approve", "kim")
    for application in [*order, *(order if twice else ())]:
        record = receipted(record, "v-1", application, force, NOON)
    assert (record.state, record.delivery, record.in_force) == (ApprovalState.APPROVED, Delivery.APPLIED, force)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["v-1", "v-2"]),
            st.sampled_from([d for d in Delivery if d not in (Delivery.NONE, Delivery.SENT)]),
            st.sampled_from(["approve", "deny", ""]),
        ),
        max_size=6,
    )
)
def test_a_receipt_never_changes_who_decided_on_record(receipts):
    record = OPEN.vote(vote())
    for decision, application, verdict in receipts:
        record = receipted(record, decision, application, InForce(verdict, "ben"), NOON)
        assert record.decision == vote()
        assert record.state is ApprovalState.APPROVED


def test_a_lost_record_is_taken_as_the_machine_tells_it():
    for state in ApprovalState:
        found = announced(None, replace(OPEN, state=state), NOON)
        assert found.state is state
        assert (found.decided_at is None) == (state is ApprovalState.OPEN)
