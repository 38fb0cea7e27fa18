"""What must hold of an instruction's life: it settles once, and a late word of the daemon that did it is believed."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from switchboard_rpc.v1 import fleet_pb2

from switchboard.domain.errors import IllegalTransition
from switchboard.domain.instruction import MOVES, PENDING, Instruction, Kind, State
from switchboard.rpc import outward

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ORDERED = Instruction(
    id="i-1",
    machine="m-1",
    kind=Kind.END,
    run="r-1",
    body={},
    by="ana",
    at=NOON,
    lapses_at=NOON + timedelta(minutes=10),
)


@given(st.lists(st.sampled_from(State), max_size=8))
def test_what_was_applied_or_failed_stays_so_and_an_illegal_move_changes_nothing(states):
    instruction = ORDERED
    for state in states:
        before = instruction
        try:
            instruction = instruction.take(state, "why")
        except IllegalTransition:
            assert instruction is before
        if before.state in (State.APPLIED, State.FAILED):
            assert instruction is before


@pytest.mark.parametrize("state", sorted(PENDING))
def test_a_pending_one_can_always_settle(state):
    assert {State.APPLIED, State.FAILED, State.LAPSED} <= MOVES[state]


def test_nothing_leads_back_to_ordered():
    assert not any(State.ORDERED in targets for targets in MOVES.values())


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_message_on_the_wire(kind):
    body = {"diff": {"run_id": "r-1"}} if kind is Kind.QUERY else {"run_id": "r-1", "verdict": "approve", "later": 1}
    sent = outward.instruction_to(
        Instruction(id="i", machine="m", kind=kind, run="r-1", body=body, by="a", at=NOON, lapses_at=NOON)
    )
    assert sent.WhichOneof("kind") == kind.value
    assert {field.name for field in fleet_pb2.Instruction.DESCRIPTOR.oneofs_by_name["kind"].fields} == set(Kind)
