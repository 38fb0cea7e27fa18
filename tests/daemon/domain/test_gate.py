"""A decision comes into force for exactly the request that it was made for; in every doubt it does not."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.agent import QuestionKind
from daemon.domain.approval import ApprovalState, canonical, digest
from daemon.domain.facts import ApprovalRecord
from daemon.domain.gate import Allowed, NotThis, judge
from daemon.domain.instruction import Decision

INPUT = {"command": "echo hello"}
EDITED = {"command": "echo bye"}


def bound(input: object, kind: str = "tool") -> str:
    return digest("r1", 1, kind, "Bash", input, "/repo")


RECORD = ApprovalRecord(
    id="a1",
    run="r1",
    attempt=1,
    kind="tool",
    tool="Bash",
    input_json=canonical(INPUT),
    shown_json=canonical(INPUT),
    digest=bound(INPUT),
    cwd="/repo",
    edits_input=True,
    opened_boot_ms=1_000,
    expires_boot_ms=2_000,
)
YES = Decision(approval="a1", approve=True, digest=RECORD.digest, by="ben")
EDIT = replace(YES, input_json=json.dumps(EDITED), edited_digest=bound(EDITED))


def test_an_approval_of_what_was_asked_is_allowed() -> None:
    assert judge(RECORD, YES, live_attempt=1, at=1_500) == Allowed()


def test_an_edit_is_allowed_when_its_own_digest_fits() -> None:
    assert judge(RECORD, EDIT, live_attempt=1, at=1_500) == Allowed(canonical(EDITED))


@pytest.mark.parametrize(
    ("record", "decision", "why"),
    [
        (None, YES, "holds no question"),
        (replace(RECORD, state=ApprovalState.WITHDRAWN, reason="the agent withdrew it"), YES, "the agent withdrew it"),
        (replace(RECORD, state=ApprovalState.EXPIRED), YES, "expired"),
        (replace(RECORD, state=ApprovalState.DENIED, decided_by="kim"), YES, "kim decided it first"),
        (replace(RECORD, expires_boot_ms=1_500), YES, "expired"),
        (replace(RECORD, attempt=2), YES, "is over"),
        (RECORD, replace(YES, digest="sha256:0"), "digest differs"),
        (RECORD, replace(YES, digest=""), "digest differs"),
        (replace(RECORD, input_json=canonical(EDITED)), YES, "digest differs"),
        (replace(RECORD, cwd="/elsewhere"), YES, "digest differs"),
        (replace(RECORD, input_json="{"), replace(YES, digest=""), "digest differs"),
        (RECORD, replace(EDIT, edited_digest=YES.digest), "its digest differs"),
        (RECORD, replace(EDIT, input_json="[1]"), "not a JSON object"),
        (RECORD, replace(EDIT, input_json="{"), "not JSON"),
        (RECORD, replace(EDIT, input_json='{"a":NaN}'), "not JSON"),
        (replace(RECORD, edits_input=False), EDIT, "takes no edited input"),
        (replace(RECORD, masked=True), EDIT, "was masked"),
    ],
)
def test_everything_else_changes_nothing_and_says_why(
    record: ApprovalRecord | None, decision: Decision, why: str
) -> None:
    found = judge(record, decision, live_attempt=1, at=1_500)

    assert isinstance(found, NotThis)
    assert why in found.reason


def test_a_run_that_is_being_stopped_or_held_lets_nothing_through() -> None:
    found = judge(RECORD, YES, live_attempt=1, at=1_500, stopped="order o1 of ana holds it")

    assert found == NotThis("the run goes no further: order o1 of ana holds it")


@pytest.mark.parametrize("kind", [QuestionKind.CHOICE, QuestionKind.ELICITATION])
def test_what_is_answered_with_input_takes_it_even_where_part_was_masked(kind: QuestionKind) -> None:
    record = replace(RECORD, kind=kind, edits_input=False, masked=True, digest=bound(INPUT, kind))
    answer = {"answers": {"Which?": "this"}}
    decision = replace(YES, digest=record.digest, input_json=json.dumps(answer), edited_digest=bound(answer, kind))

    assert judge(record, decision, live_attempt=1, at=1_500) == Allowed(canonical(answer))


@pytest.mark.parametrize("answer", [None, {}, {"answers": {}}, {"answers": ["this"]}])
def test_a_choice_is_not_allowed_without_its_answers(answer: object) -> None:
    record = replace(RECORD, kind=QuestionKind.CHOICE, digest=bound(INPUT, QuestionKind.CHOICE))
    decision = replace(YES, digest=record.digest)
    if answer is not None:
        edited = bound(answer, QuestionKind.CHOICE)
        decision = replace(decision, input_json=json.dumps(answer), edited_digest=edited)

    found = judge(record, decision, live_attempt=1, at=1_500)

    assert isinstance(found, NotThis)
    assert "without an answer" in found.reason
    assert judge(record, replace(decision, approve=False), live_attempt=1, at=1_500) == Allowed()


@given(st.text(), st.text(), st.integers(0, 3), st.integers(0, 3_000))
def test_no_approval_without_its_digest(given_digest: str, input_json: str, attempt: int, at: int) -> None:
    decision = Decision(approval="a1", approve=True, digest=given_digest, input_json=input_json)

    assert isinstance(judge(RECORD, decision, live_attempt=attempt, at=at), NotThis)
