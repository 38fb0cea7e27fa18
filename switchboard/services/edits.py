"""A vote that changes what the agent asked for: allowed only where the voter saw all of it, and bound by a digest of its own."""

from collections.abc import Mapping
from typing import Any

from switchboard.domain.approval import Approval, Verdict
from switchboard.domain.digest import canonical, digest
from switchboard.domain.errors import Conflict, Invalid
from switchboard.services.words import LONGEST_PROMPT, words


def edited(approval: Approval, verdict: str, input: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return an edited input as canonical JSON and the digest of the request with it; two empty texts for none.

    Raises Invalid, and Conflict where part of the input was never shown.
    """
    if input is None:
        return "", ""
    if verdict != Verdict.APPROVE:
        raise Invalid("input", "an edited input goes with approve only")
    if not approval.edits_input:
        raise Invalid("input", f"{approval.tool or approval.kind} takes no edited input: approve or deny it as it is")
    if approval.masked:
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
