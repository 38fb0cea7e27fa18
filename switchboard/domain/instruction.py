"""What a daemon is told to do: a record that is redelivered until the daemon reports, idempotent by id."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from switchboard.domain.errors import IllegalTransition

LAPSES_AFTER = timedelta(minutes=10)  # starts, messages and the like; decisions lapse with their approval


class Kind(StrEnum):
    START = "start"
    MESSAGE = "message"
    INTERRUPT = "interrupt"
    RESUME = "resume"
    END = "end"
    DECISION = "decision"
    QUERY = "query"
    PURGE = "purge"


class State(StrEnum):
    ORDERED = "ordered"
    DELIVERED = "delivered"
    APPLIED = "applied"
    FAILED = "failed"
    LAPSED = "lapsed"


PENDING = frozenset({State.ORDERED, State.DELIVERED})

MOVES: dict[State, frozenset[State]] = {
    State.ORDERED: frozenset({State.DELIVERED, State.APPLIED, State.FAILED, State.LAPSED}),
    State.DELIVERED: frozenset({State.DELIVERED, State.APPLIED, State.FAILED, State.LAPSED}),
    # A daemon that did it after all is believed: its word is later and truer than a timer here.
    State.LAPSED: frozenset({State.APPLIED, State.FAILED}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    id: str
    machine: str
    kind: Kind
    run: str
    body: Mapping[str, Any]  # fields of the wire message of its kind
    by: str
    reason: str = ""
    at: datetime
    lapses_at: datetime
    state: State = State.ORDERED
    outcome: str = ""

    @property
    def pending(self) -> bool:
        return self.state in PENDING

    def take(self, state: State, outcome: str = "") -> "Instruction":
        if state not in MOVES.get(self.state, frozenset()):
            raise IllegalTransition("instruction", self.id, self.state, state)
        return replace(self, state=state, outcome=outcome)
