"""The life of one question, and the digest that binds a decision to what was asked."""

import hashlib
import json
from enum import StrEnum
from typing import Any

from daemon.domain.errors import IllegalTransition


class ApprovalState(StrEnum):
    OPEN = "open"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class Verdict(StrEnum):
    APPROVE = "approve"
    DENY = "deny"


class Application(StrEnum):
    """How far a decision has come; the daemon's word is what is in force."""

    NONE = ""
    ACCEPTED = "accepted"  # on this machine's disk, not yet with the agent
    APPLIED = "applied"  # the agent has taken it
    REFUSED = "refused"  # the agent would not take it
    UNDELIVERABLE = "undeliverable"  # the agent was gone before it could take it


class ApprovalEvent(StrEnum):
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


_S, _E = ApprovalState, ApprovalEvent

MOVES: dict[ApprovalState, dict[ApprovalEvent, ApprovalState]] = {
    _S.OPEN: {
        _E.APPROVED: _S.APPROVED,
        _E.DENIED: _S.DENIED,
        _E.EXPIRED: _S.EXPIRED,  # a no that is nobody's denial
        _E.WITHDRAWN: _S.WITHDRAWN,
    },
    _S.APPROVED: {},
    _S.DENIED: {},
    _S.EXPIRED: {},
    _S.WITHDRAWN: {},
}

BY_VERDICT = {Verdict.APPROVE: ApprovalEvent.APPROVED, Verdict.DENY: ApprovalEvent.DENIED}


def after(id: str, state: ApprovalState, event: ApprovalEvent) -> ApprovalState:
    """Return the state that *event* leads to. Raises IllegalTransition."""
    to = MOVES[state].get(event)
    if to is None:
        raise IllegalTransition("approval", id, state, event)
    return to


class NotCanonical(ValueError):
    """A value that JSON cannot hold, so that nobody can be bound to it."""


def canonical(value: Any) -> str:
    """Return *value* as JSON with sorted keys and no spaces, always valid UTF-8. Raises NotCanonical.

    A lone surrogate, which UTF-8 cannot hold, stays the escape that it came as, so no two inputs share a text.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotCanonical(f"the input cannot be written as JSON: {error}") from error
    return text.encode("utf-8", "backslashreplace").decode()


def digest(run: str, attempt: int, kind: str, tool: str, input: Any, cwd: str) -> str:
    """Return "sha256:" + hex over the canonical JSON of the six, the input unmasked. Raises NotCanonical."""
    asked = {"run": run, "attempt": attempt, "kind": str(kind), "tool": tool, "input": input, "cwd": cwd}
    return "sha256:" + hashlib.sha256(canonical(asked).encode()).hexdigest()
