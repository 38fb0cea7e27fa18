"""What must hold of a question's table, and what its digest is sensitive to."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.approval import (
    BY_VERDICT,
    MOVES,
    ApprovalEvent,
    ApprovalState,
    NotCanonical,
    Verdict,
    after,
    canonical,
    digest,
)
from daemon.domain.errors import IllegalTransition

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(), max_size=8)  # surrogates included
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def test_every_state_is_in_the_table_and_only_open_has_a_way_out():
    assert set(MOVES) == set(ApprovalState)
    assert {state for state in ApprovalState if MOVES[state]} == {ApprovalState.OPEN}
    assert set(MOVES[ApprovalState.OPEN].values()) == set(ApprovalState) - {ApprovalState.OPEN}


@pytest.mark.parametrize("state", sorted(set(ApprovalState) - {ApprovalState.OPEN}))
@pytest.mark.parametrize("event", list(ApprovalEvent))
def test_nothing_happens_to_a_settled_question(state, event):
    with pytest.raises(IllegalTransition, match=f"approval a1 is {state}"):
        after("a1", state, event)


def test_only_an_approval_approves():
    ways = {event for event, state in MOVES[ApprovalState.OPEN].items() if state is ApprovalState.APPROVED}

    assert ways == {ApprovalEvent.APPROVED} == {BY_VERDICT[Verdict.APPROVE]}


@given(values)
def test_canonical_json_is_valid_utf8_and_loses_nothing(value):
    text = canonical(value)

    assert json.loads(text.encode()) == value
    assert canonical(json.loads(text)) == text


def test_the_order_of_keys_does_not_matter_and_the_kind_of_number_does():
    assert canonical({"b": 1, "a": [1.0, "é"]}) == '{"a":[1.0,"é"],"b":1}' == canonical({"a": [1.0, "é"], "b": 1})
    assert canonical(1) != canonical(1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": -math.inf}, {1: 1, "b": 2}, {"s": {1}}, b"bytes"])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(NotCanonical, match="cannot be written as JSON"):
        canonical(value)


def test_a_nest_without_end_is_refused():
    value: list = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(NotCanonical):
        canonical(value)


BASE = {"run": "r1", "attempt": 1, "kind": "tool", "tool": "Bash", "input": {"command": "ls"}, "cwd": "/src"}


def test_the_digest_is_what_the_contract_says():
    text = '{"attempt":1,"cwd":"/src","input":{"command":"ls"},"kind":"tool","run":"r1","tool":"Bash"}'
    import hashlib

    assert digest(**BASE) == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"run": "r2"},
        {"attempt": 2},
        {"kind": "plan"},
        {"tool": "bash"},
        {"cwd": "/src/"},
        {"input": {"command": "ls "}},
        {"input": {"command": "ls", "timeout": None}},
        {"input": {"command": "l\ud800s"}},
    ],
)
def test_any_other_request_has_another_digest(other):
    assert digest(**BASE) != digest(**(BASE | other))
