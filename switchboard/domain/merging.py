"""How a machine's word and the record of an approval add up: pure, the same in any order, and never against a decision."""

from dataclasses import replace
from datetime import datetime

from switchboard.domain.approval import Approval, ApprovalState, Delivery, Event, InForce, Verdict

_DECIDED = frozenset({ApprovalState.APPROVED, ApprovalState.DENIED})
_EVENT = {
    ApprovalState.APPROVED: Event.APPROVE,
    ApprovalState.DENIED: Event.DENY,
    ApprovalState.EXPIRED: Event.EXPIRE,
    ApprovalState.WITHDRAWN: Event.WITHDRAW,
}
_BY_VERDICT = {Verdict.APPROVE.value: ApprovalState.APPROVED, Verdict.DENY.value: ApprovalState.DENIED}
# How much a delivery says; a later word never takes it back.
_RANK = {
    Delivery.NONE: 0,
    Delivery.SENT: 1,
    Delivery.ACCEPTED: 2,
    Delivery.APPLIED: 3,
    Delivery.UNDELIVERABLE: 3,
    Delivery.REFUSED: 3,
}


def announced(record: Approval | None, said: Approval, now: datetime) -> Approval:
    """Return what stands after a machine's announcement."""
    if record is None:
        return replace(said, decided_at=None if said.state is ApprovalState.OPEN else now)
    if said.revision < record.revision or (said.revision == record.revision and said.state is record.state):
        return record
    if record.state is ApprovalState.OPEN:
        # Votes, delivery, who was told and the earliest opening are the record's; everything else is the machine's to say.
        card = replace(
            said,
            state=ApprovalState.OPEN,
            reason="",
            opened_at=min(record.opened_at, said.opened_at),
            votes=record.votes,
            delivery=record.delivery,
            in_force=record.in_force,
            told=record.told,
        )
        if said.state is ApprovalState.OPEN:
            return card
        return card.take(_EVENT[said.state], now, said.reason)
    # Terminal: no edges out. What the machine says otherwise is kept beside it.
    revision = max(record.revision, said.revision)
    if said.state is ApprovalState.OPEN or said.state is record.state:
        return replace(record, revision=revision)
    if record.state in _DECIDED and said.state not in _DECIDED and _RANK[record.delivery] <= _RANK[Delivery.SENT]:
        # It had closed on the machine before the decision came: the decision changed nothing there.
        closed = InForce(verdict=said.state.value, by="", reason=said.reason)
        return replace(record, revision=revision, delivery=Delivery.REFUSED, in_force=closed)
    return replace(record, revision=revision)


def receipted(record: Approval, decision: str, application: Delivery, force: InForce, now: datetime) -> Approval:
    """Return what stands after a machine's receipt for *decision*."""
    on_record = record.decision
    if on_record is not None and on_record.id == decision:
        if _RANK[application] <= _RANK[record.delivery]:
            return record
        return replace(
            record, delivery=application, in_force=force if force.verdict or force.reason else record.in_force
        )
    if application is Delivery.REFUSED:
        return record  # of a decision that is not on record and not in force: nothing to show
    # In force on the machine, but not the one on record: the store forgot it, or another one won there first.
    if record.state is ApprovalState.OPEN and force.verdict in _BY_VERDICT:
        taken = record.take(_EVENT[_BY_VERDICT[force.verdict]], now, force.reason)
        return replace(taken, delivery=application, in_force=force)
    if on_record is None:
        if _RANK[application] <= _RANK[record.delivery]:
            return record
        return replace(record, delivery=application, in_force=force)
    return replace(record, delivery=Delivery.REFUSED, in_force=force)


def agrees(approval: Approval) -> bool:
    """Say whether what is in force on the machine is what stands on record."""
    force, decision = approval.in_force, approval.decision
    if force is None:
        return True
    return _BY_VERDICT.get(force.verdict) is approval.state and (decision is None or force.by == decision.by)
