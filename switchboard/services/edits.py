"""What a vote gives beside its yes: an answer, or a changed input. A change is allowed only where the voter saw all of it."""

from collections.abc import Mapping
from typing import Any

from switchboard.domain.approval import Approval, Verdict
from switchboard.domain.digest import canonical, digest
from switchboard.domain.errors import Conflict, Invalid
from switchboard.services.words import LONGEST_PROMPT, words

CHOICE = "choice"
ANSWERED_BY_INPUT = frozenset({CHOICE, "elicitation"})  # the input is the voter's answer and replaces nothing


def edited(approval: Approval, verdict: str, input: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return an answer or an edited input as canonical JSON and the digest of the request with it; two empty texts for none.

    Raises Invalid, for a choice without its answers too, and Conflict where an edit would replace what was never shown.
    """
    if verdict == Verdict.APPROVE and approval.kind == CHOICE and not answered(input):
        raise Invalid(
            "input",
            'a choice is approved with what was chosen, {"answers": {"the question": "the choice"}}: '
            "without it the agent would be told no",
        )
    if input is None:
        return "", ""
    if verdict != Verdict.APPROVE:
        raise Invalid("input", "an edited input goes with approve only")
    if not approval.edits_input:
        raise Invalid("input", f"{approval.tool or approval.kind} takes no edited input: approve or deny it as it is")
    if approval.masked and approval.kind not in ANSWERED_BY_INPUT:
        raise Conflict(
            "part of this input stays on its machine, so an edit would replace what nobody here can see: "
            "approve or deny it as it is"
        )
    text = words("input", canonical(dict(input)), LONGEST_PROMPT)
    return text, digest(
        run=approval.run,
        attempt=approval.attempt,
        kind=approval.kind,
        tool=approval.tool,
        input=dict(input),
        cwd=approval.cwd,
    )


def answered(input: Mapping[str, Any] | None) -> bool:
    """Say whether *input* holds the answers of a choice."""
    answers = (input or {}).get("answers")
    return isinstance(answers, Mapping) and bool(answers)
