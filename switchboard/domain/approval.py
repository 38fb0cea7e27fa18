"""One question of one run. Three facts are kept apart: the decision, its delivery, and its application by the agent."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from switchboard.domain.errors import Conflict, IllegalTransition


class ApprovalState(StrEnum):
    OPEN = "open"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class Event(StrEnum):
    APPROVE = "approve"
    DENY = "deny"
    EXPIRE = "expire"
    WITHDRAW = "withdraw"


MOVES: dict[ApprovalState, dict[Event, ApprovalState]] = {
    ApprovalState.OPEN: {
        Event.APPROVE: ApprovalState.APPROVED,
        Event.DENY: ApprovalState.DENIED,
        Event.EXPIRE: ApprovalState.EXPIRED,
        Event.WITHDRAW: ApprovalState.WITHDRAWN,
    },
    # Terminal states have no edges out.
}


class Delivery(StrEnum):
    NONE = "none"  # nothing decided
    SENT = "sent"  # on its way to the machine
    ACCEPTED = "accepted"  # on the machine's disk: in force
    APPLIED = "applied"  # the agent has taken it
    REFUSED = "refused"  # the machine holds another truth; see `in_force`
    UNDELIVERABLE = "undeliverable"  # the agent was gone


class Verdict(StrEnum):
    APPROVE = "approve"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's answer. Late ones are kept and change nothing."""

    id: str  # of the instruction that carries it, and the idempotence key
    by: str
    verdict: Verdict
    at: datetime
    digest: str  # of the request as the voter saw it
    input_json: str = ""
    edited_digest: str = ""
    note: str = ""  # approve: for the audit; deny: the reason that the agent gets
    via: str = ""  # how its voter proved to be who they are: session, password
    counted: bool = True


@dataclass(frozen=True, slots=True)
class InForce:
    """What the daemon's receipt says happened. Where it differs from the record, this is the truth, and it alarms."""

    verdict: str
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    id: str
    run: str
    machine: str
    attempt: int
    kind: str
    tool: str
    input_json: str  # canonical JSON; masked where `masked`
    cwd: str
    digest: str
    opened_at: datetime
    expires_at: datetime
    title: str = ""
    why: str = ""
    diff: str = ""
    edits_input: bool = False
    masked: bool = False
    revision: int = 0
    owner: str = ""  # of the run
    repo: str = ""
    state: ApprovalState = ApprovalState.OPEN
    reason: str = ""
    decided_at: datetime | None = None
    votes: tuple[Vote, ...] = ()
    delivery: Delivery = Delivery.NONE
    in_force: InForce | None = None
    told: bool = False  # by the webhook

    @property
    def decision(self) -> Vote | None:
        return next((v for v in self.votes if v.counted), None)

    def take(self, event: Event, at: datetime, reason: str = "") -> "Approval":
        """Return the approval as it stands after *event*. Raises IllegalTransition, changing nothing."""
        state = MOVES.get(self.state, {}).get(event)
        if state is None:
            raise IllegalTransition("approval", self.id, self.state, event)
        return replace(self, state=state, decided_at=at, reason=reason)

    def vote(self, vote: Vote) -> "Approval":
        """Return the approval with *vote* counted. Raises Conflict for a digest that is not the present one, and AlreadyDecided."""
        if self.state is not ApprovalState.OPEN:
            raise AlreadyDecided(self)
        if vote.digest != self.digest:
            raise Conflict(f"approval {self.id} has changed since you looked: read it again", digest=self.digest)
        if vote.at >= self.expires_at:
            raise Conflict(f"approval {self.id} expired at {self.expires_at:%H:%M:%S} UTC; the agent is told no")
        event = Event.APPROVE if vote.verdict is Verdict.APPROVE else Event.DENY
        decided = self.take(event, vote.at, vote.note if event is Event.DENY else "")
        return replace(decided, votes=(*self.votes, vote), delivery=Delivery.SENT)

    def late(self, vote: Vote) -> "Approval":
        """Return the approval with a vote that came too late on record: it changes nothing."""
        return replace(self, votes=(*self.votes, replace(vote, counted=False)))


class AlreadyDecided(Conflict):
    """Tells a late voter who decided what and when."""

    def __init__(self, approval: Approval) -> None:
        first = approval.decision
        who = f" by {first.by}" if first else ""
        when = f" at {approval.decided_at:%H:%M:%S} UTC" if approval.decided_at else ""
        super().__init__(
            f"approval {approval.id} was already {approval.state}{who}{when}; your answer is on record and changes nothing",
            state=approval.state,
            by=first.by if first else "",
            at=approval.decided_at.isoformat() if approval.decided_at else "",
        )
