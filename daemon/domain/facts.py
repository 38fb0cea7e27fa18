"""What this machine holds to be true, as plain values, and how they are written down.

A field that is added later needs a default: files of an older daemon lack it, and those of a younger one have more.
"""

import json
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from daemon.domain import run as lives
from daemon.domain.approval import Application, ApprovalState, Verdict
from daemon.domain.run import RunEvent, RunState

Selector = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunRecord:
    id: str
    attempt: int = 1
    revision: int = 0
    state: RunState = RunState.STARTING
    reason: str = ""
    repo: str = ""
    path: str = ""
    branch: str = ""
    base_commit: str = ""
    agent: str = ""
    agent_version: str = ""
    mode: str = ""
    permission_mode: str = ""
    not_gated: tuple[str, ...] = ()
    abilities: tuple[str, ...] = ()
    owner: str = ""
    waits_for: str = ""
    prompt: str = ""
    session_id: str = ""
    started_boot_ms: int = 0
    boot_id: str = ""
    started_wall_ms: int = 0
    content: str = "full"
    containment: str = ""
    scope: tuple[str, ...] = ()
    resume_after_crash: bool = False
    output_next: int = 0  # of an ended run: the seq after its last output
    acked: bool = False

    def take(self, event: RunEvent, reason: str = "") -> "RunRecord":
        """Return the run as it stands after *event*. Raises IllegalTransition."""
        return replace(self, state=lives.after(self.id, self.state, event), reason=reason or self.reason)


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    id: str
    run: str
    attempt: int
    kind: str
    tool: str
    input_json: str  # canonical and unmasked; never leaves the machine
    shown_json: str  # what people see
    digest: str
    masked: bool = False
    cwd: str = ""
    title: str = ""
    why: str = ""
    diff: str = ""
    edits_input: bool = False
    state: ApprovalState = ApprovalState.OPEN
    reason: str = ""
    opened_boot_ms: int = 0
    expires_boot_ms: int = 0
    revision: int = 0
    decision_id: str = ""
    verdict: Verdict | None = None
    decided_by: str = ""
    decision_input_json: str = ""
    message: str = ""  # what the agent is told on a denial
    application: Application = Application.NONE
    acked: bool = False

    def why_not(self) -> str:
        """Say why no other decision can be taken."""
        if self.verdict is not None:
            return f"{self.decided_by or 'somebody'} decided it first: {self.state}"
        return f"it is {self.state}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Accepted:
    """The decision in force is the one that was brought."""

    approval: ApprovalRecord
    again: bool = False  # it was in force before this call


@dataclass(frozen=True, slots=True)
class Refused:
    """The decision that was brought changes nothing; *in_force* is the question as it stands, if the machine knows it."""

    reason: str
    in_force: ApprovalRecord | None = None


@dataclass(frozen=True, slots=True)
class OrderRecord:
    id: str
    generation: int
    selector: Selector = field(default_factory=dict)
    reason: str = ""
    by: str = ""
    issued_at_ms: int = 0
    hold: bool = False
    lifted: bool = False
    lifted_by: str = ""
    lift_reason: str = ""
    lift_seal: str = ""  # of the switchboard, which believes a lift that it has forgotten only with it


@dataclass(frozen=True, slots=True)
class Saved:
    """What of a run's work was kept: *not_saved* are paths with their reasons, *error* says why there is no copy at all.

    *left_out* counts what was not saved, named or not.
    """

    id: str = ""
    head: str = ""
    files: int = 0
    bytes: int = 0
    not_saved: tuple[str, ...] = ()
    error: str = ""
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    order: str
    run: str
    attempt: int
    outcome: str = ""  # ended, failed, refused
    proof: str = ""  # contained, traced, best-effort
    rung: str = ""  # none, interrupt, terminate, kill
    took_ms: int = 0
    processes: int = 0
    reason: str = ""
    safety: Saved | None = None
    revision: int = 0
    acked: bool = False


class InstructionState(StrEnum):
    DELIVERED = "delivered"
    APPLIED = "applied"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class InstructionRecord:
    id: str
    kind: str
    json: str
    state: InstructionState = InstructionState.DELIVERED
    reason: str = ""
    revision: int = 0
    acked: bool = False


T = TypeVar("T")
_PLAIN = (str, int, float, dict)


def pack(record: Any) -> str:
    """Return *record* as ASCII JSON: whatever bytes a path or a prompt holds survive it."""
    return json.dumps(_plain(record))


def unpack(cls: type[T], text: str) -> T:
    """Return what `pack` wrote; what this version does not know is left out, what the file lacks takes its default."""
    value: T = _build(cls, json.loads(text))
    return value


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, _PLAIN):
        return value
    if is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in _names(value.__class__)}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, PurePath) else value


@cache
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _build(hint: Any, value: Any) -> Any:
    if get_origin(hint) is UnionType:
        if value is None:
            return None
        hint = next(arm for arm in get_args(hint) if arm is not NoneType)
    if get_origin(hint) is tuple:
        return tuple(_build(get_args(hint)[0], part) for part in value)
    if isinstance(hint, type) and issubclass(hint, StrEnum | PurePath):
        return hint(value)
    if isinstance(hint, type) and is_dataclass(hint):
        known = _hints(hint)
        return hint(**{name: _build(known[name], part) for name, part in value.items() if name in known})
    return value
