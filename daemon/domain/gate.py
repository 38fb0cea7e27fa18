"""Whether a decision may come into force: the request as it is written down, against what the voter saw. In doubt, no."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daemon.domain.agent import QuestionKind
from daemon.domain.approval import ApprovalState, NotCanonical, canonical, digest
from daemon.domain.facts import ApprovalRecord
from daemon.domain.instruction import Decision

ANSWERED_BY_INPUT = frozenset({QuestionKind.CHOICE, QuestionKind.ELICITATION})  # a person fills these in
UNANSWERED = "it says yes without an answer, and the agent would be told no"


@dataclass(frozen=True, slots=True)
class Allowed:
    """It may be accepted; *input_json* is the edited input, or empty."""

    input_json: str = ""


@dataclass(frozen=True, slots=True)
class NotThis:
    """It changes nothing, and this is why."""

    reason: str


def judge(
    record: ApprovalRecord | None, decision: Decision, *, live_attempt: int, at: int, stopped: str = ""
) -> Allowed | NotThis:
    """Hold *decision* against the question that it names. *live_attempt* is 0 when the run is not alive; *stopped* says why it
    is being stopped or held."""
    if record is None:
        return NotThis(f"this machine holds no question {decision.approval}")
    if record.state in (ApprovalState.EXPIRED, ApprovalState.WITHDRAWN):
        return NotThis(f"the question is {record.state}: {record.reason or 'the agent no longer waits'}")
    if record.state is not ApprovalState.OPEN:
        return NotThis(f"{record.decided_by or 'somebody'} decided it first: {record.state}")
    if at >= record.expires_boot_ms:
        return NotThis("the question has expired; the agent is told no")
    if stopped:
        return NotThis(f"the run goes no further: {stopped}")
    if live_attempt != record.attempt:
        return NotThis("the run that asked is over")
    present = recomputed(record)
    if not present or decision.digest != present:
        return NotThis("the decision is for another request than the one that waits: its digest differs")
    if not decision.approve:
        return Allowed()
    if not decision.input_json:
        return NotThis(UNANSWERED) if record.kind == QuestionKind.CHOICE else Allowed()
    return _edited(record, decision)


def recomputed(record: ApprovalRecord) -> str:
    """Return the digest of what is written down, or "" when it cannot be read."""
    try:
        asked = json.loads(record.input_json)
        return digest(record.run, record.attempt, record.kind, record.tool, asked, record.cwd)
    except (ValueError, NotCanonical):
        return ""


def answers(input: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return what *input* chooses by question; nothing when it chooses nothing."""
    found = (input or {}).get("answers")
    return found if isinstance(found, Mapping) else {}


def _edited(record: ApprovalRecord, decision: Decision) -> Allowed | NotThis:
    if record.kind not in ANSWERED_BY_INPUT:
        if not record.edits_input:
            return NotThis("this agent takes no edited input")
        if record.masked:
            return NotThis("part of the input was masked, so an edit of it would put the mask in its place")
    try:
        wanted = json.loads(decision.input_json)
        if not isinstance(wanted, dict):
            return NotThis("the edited input is not a JSON object")
        found = digest(record.run, record.attempt, record.kind, record.tool, wanted, record.cwd)
        if found != decision.edited_digest:
            return NotThis("the edited input is not the one that was voted for: its digest differs")
        if record.kind == QuestionKind.CHOICE and not answers(wanted):
            return NotThis(UNANSWERED)
        return Allowed(canonical(wanted))
    except (ValueError, NotCanonical, RecursionError):
        return NotThis("the edited input is not JSON")
