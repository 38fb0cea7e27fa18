"""Questions and votes. The first vote that lands decides; the machine's receipt says what is in force."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import structlog

from switchboard import faults
from switchboard.clock import Clock
from switchboard.domain.approval import AlreadyDecided, Approval, ApprovalState, Delivery, InForce, Verdict, Vote
from switchboard.domain.errors import Conflict, Forbidden, Invalid, NotFound
from switchboard.domain.instruction import Kind
from switchboard.domain.merging import agrees, announced, receipted
from switchboard.domain.people import Caller, Permission
from switchboard.domain.run import Run
from switchboard.services.book import Book
from switchboard.services.edits import edited
from switchboard.services.instructions import Instructions
from switchboard.services.ports import AuditLog, Notifier
from switchboard.services.projection import Projection
from switchboard.services.telling import Telling
from switchboard.services.vote_audit import VoteAudit
from switchboard.services.words import LONGEST_NOTE, ident, words

log = structlog.get_logger()

LATE_VOTES_KEPT = 100
DECISION_GRACE = timedelta(minutes=5)  # a decision outlives its question a little: the machine says what became of it
RECEIPT_WITHIN = timedelta(seconds=30)  # of its instruction; a decision that is settled without one is sent again


@dataclass(frozen=True, slots=True)
class DecisionReceipt:
    """A machine's word on one decision."""

    approval: str
    decision: str  # the vote's id
    application: Delivery
    verdict: str
    by: str
    reason: str = ""


class Approvals:
    def __init__(
        self,
        *,
        approvals: Book[Approval],
        runs: Book[Run],
        instructions: Instructions,
        projection: Projection,
        audit: AuditLog,
        clock: Clock,
        notifier: Notifier | None = None,
    ) -> None:
        self._approvals = approvals
        self._runs = runs
        self._instructions = instructions
        self._projection = projection
        self._audit = audit
        self._votes = VoteAudit(audit, projection)
        self.note_votes = self._votes.make_good
        self._clock = clock
        self.telling = Telling(approvals, clock, notifier)

    def open(self) -> list[Approval]:
        """Return what waits for a person, oldest first."""
        waiting = (a for a in self._projection.approvals() if a.state is ApprovalState.OPEN)
        return sorted(waiting, key=lambda approval: (approval.opened_at, approval.id))

    def listed(self, *, state: str | None = None, run: str | None = None) -> list[Approval]:
        """Return approvals, newest first, open ones before the rest."""
        found = [
            a
            for a in self._projection.approvals()
            if (state is None or a.state == state) and (run is None or a.run == run)
        ]
        found.sort(key=lambda approval: (approval.opened_at, approval.id), reverse=True)
        found.sort(key=lambda approval: approval.state is not ApprovalState.OPEN)
        return found

    def get(self, id: str) -> Approval:
        approval = self._projection.approval(id)
        if approval is None:
            raise NotFound(f"no approval {id[:100]!r}: see `switchboard approvals`")
        return approval

    # What people say

    async def vote(
        self,
        caller: Caller,
        id: str,
        *,
        verdict: str,
        digest: str,
        note: str = "",
        input: Mapping[str, Any] | None = None,
        vote_id: str | None = None,
    ) -> Approval:
        """Decide a question. Raises AlreadyDecided, telling who was first; the late vote is on record and changes nothing."""
        caller.need(Permission.VOTE, "decide what agents ask")
        if verdict not in (Verdict.APPROVE, Verdict.DENY):
            raise Invalid("verdict", "the verdict is approve or deny")
        need = "a denial needs a reason: the agent is told it" if verdict == Verdict.DENY else ""
        note = words("note", note, LONGEST_NOTE, need=need)
        # Under an id of the voter's own this may be a repeat, which only the store can tell; else the saving looks anew anyway.
        approval = (None if vote_id else self._approvals.peek(id)) or await self._approvals.get(id)
        if approval is None:
            raise NotFound(f"no approval {id[:100]!r}: see `switchboard approvals`")
        await self._need_another(caller, approval)
        input_json, edited_digest = edited(approval, verdict, input)
        vote = Vote(
            id=ident("vote_id", vote_id) if vote_id else f"v-{secrets.token_hex(8)}",
            by=caller.person,
            verdict=Verdict(verdict),
            at=self._clock.now(),
            digest=digest,
            note=note,
            input_json=input_json,
            edited_digest=edited_digest,
            via=caller.via,
        )
        if (before := next((v for v in approval.votes if v.id == vote.id), None)) is not None:
            if (before.by, before.verdict, before.edited_digest) != (vote.by, vote.verdict, vote.edited_digest):
                raise Conflict(f"the vote id {vote.id} is taken by another vote: send a fresh one")
            if not before.counted:
                await self._votes.note(id, before)
                raise AlreadyDecided(approval)
            await self._announce(approval, before)
            return approval
        if vote_id and await self._instructions.known(vote.id) is not None:
            raise Conflict(f"the vote id {vote.id} is taken: send a fresh one")
        try:
            decided = await self._approvals.change(id, lambda found: _found(found, id).vote(vote))
        except AlreadyDecided:
            await self._late(id, vote)
            raise
        assert decided is not None
        faults.point("service.vote.saved")
        await self._announce(decided, vote)
        return decided

    # What machines say

    async def announced(self, machine: str, said: Approval) -> Approval:
        """Take a machine's word on a question. A repeat never undoes a decision. Raises Forbidden for another machine's run."""
        run = self._runs.peek(said.run) or await self._runs.get(said.run)
        if run is not None and run.machine != machine:
            raise Forbidden(f"run {said.run} is another machine's")
        said = replace(
            said, machine=machine, owner=run.owner if run else said.owner, repo=run.repo if run else said.repo
        )
        before: Approval | None = None

        def decide(found: Approval | None) -> Approval | None:
            nonlocal before
            before = found
            if found is not None and (found.machine, found.run) != (machine, said.run):
                raise Forbidden(f"approval {said.id} is another run's")
            after = announced(found, said, self._clock.now())
            return None if after == found else after

        stands = await self._approvals.change(said.id, decide)
        assert stands is not None
        if stands.state is ApprovalState.OPEN and before is None:
            await self.telling.opened(stands)
        if said.state is ApprovalState.OPEN and stands.decision is not None:
            # The machine does not know of the decision: it is sent again, and the machine refuses it if it is too late.
            await self._deliver(stands, stands.decision, again=True)
        if before is not None and stands.in_force not in (None, before.in_force):
            await self._differs(stands)
        return stands

    async def receipt(self, machine: str, receipt: DecisionReceipt) -> None:
        """Take a machine's word on a decision: it is what happened, whatever the record says."""
        before: Approval | None = None

        def decide(found: Approval | None) -> Approval | None:
            nonlocal before
            before = found
            if found is None:
                return None
            if found.machine != machine:
                raise Forbidden(f"approval {receipt.approval} is another machine's")
            after = receipted(
                found,
                receipt.decision,
                receipt.application,
                InForce(receipt.verdict, receipt.by, receipt.reason),
                self._clock.now(),
            )
            return None if after == found else after

        stands = await self._approvals.change(receipt.approval, decide)
        if stands is None or before is None:
            log.info("a receipt for an approval that is not known here", approval=receipt.approval, machine=machine)
        elif stands.in_force != before.in_force:
            await self._differs(stands)

    # What time does

    async def expire_due(self, away: frozenset[str], grace: timedelta) -> None:
        """Close questions of machines that are away and well past their end: the machines themselves close the others."""
        now = self._clock.now()
        for due in [a for a in self.open() if a.machine in away and a.expires_at + grace <= now]:

            def expired(found: Approval | None) -> Approval | None:
                if found is None or found.state is not ApprovalState.OPEN or found.expires_at + grace > now:
                    return None
                return announced(
                    found,
                    replace(
                        found,
                        state=ApprovalState.EXPIRED,
                        reason="nobody answered in time, and its machine is away; this is not a person's denial",
                        revision=found.revision + 1,
                    ),
                    now,
                )

            await self._approvals.change(due.id, expired)

    async def redeliver(self) -> None:
        """Send decisions again whose instruction was lost, or was settled while the machine's receipt was lost."""
        now = self._clock.now()
        for approval in self._projection.approvals():
            vote = approval.decision
            if vote is None or approval.delivery is not Delivery.SENT or now >= approval.expires_at + DECISION_GRACE:
                continue
            sent = self._projection.instruction(vote.id)
            if sent is None or (not sent.pending and now >= sent.at + RECEIPT_WITHIN):
                await self._deliver(approval, vote, again=True)

    async def forget_runs(self, runs: frozenset[str]) -> None:
        for approval in [a for a in self._projection.approvals() if a.run in runs]:
            await self._approvals.delete(approval.id)

    # Small parts

    async def _need_another(self, caller: Caller, approval: Approval) -> None:
        if caller.solo:
            return
        run = self._runs.peek(approval.run) or await self._runs.get(approval.run)
        owner = run.owner if run is not None else approval.owner
        if not owner:
            raise Conflict(f"run {approval.run} is not known yet, nor whose it is: try again in a moment")
        if owner == caller.person:
            raise Forbidden("you run this agent, so somebody else decides what it may do")

    async def _announce(self, approval: Approval, vote: Vote) -> None:
        """Send a decision out, then put it on record: the agent does not wait for the record, the voter does."""
        try:
            await self._deliver(approval, vote)
        finally:
            await self._votes.note(approval.id, vote)

    async def _deliver(self, approval: Approval, vote: Vote, *, again: bool = False) -> None:
        left = max(approval.expires_at - self._clock.now(), timedelta()) + DECISION_GRACE
        await self._instructions.order(
            Kind.DECISION,
            approval.machine,
            approval.run,
            {
                "approval_id": approval.id,
                "verdict": vote.verdict.value,
                "digest": vote.digest,
                "input_json": vote.input_json,
                "edited_digest": vote.edited_digest,
                "message": vote.note if vote.verdict is Verdict.DENY else "",
                "by": vote.by,
            },
            by=vote.by,
            reason=vote.note[:2000],
            id=vote.id,
            lapses_in=left,
            again=again,
        )

    async def _late(self, id: str, vote: Vote) -> None:
        def late(found: Approval | None) -> Approval | None:
            if found is None or len(found.votes) > LATE_VOTES_KEPT or any(v.id == vote.id for v in found.votes):
                return None
            return found.late(vote)

        await self._approvals.change(id, late)
        await self._votes.note(id, replace(vote, counted=False))

    async def _differs(self, approval: Approval) -> None:
        """Alarm when what is in force on the machine is not what stands on record."""
        if approval.in_force is None or agrees(approval):
            return
        log.error("what is in force differs from the record", approval=approval.id, in_force=approval.in_force)
        await self._audit.append(
            by=approval.machine,
            via="daemon",
            action="approval.differs",
            subject=approval.id,
            reason=approval.in_force.reason[:1000],
            details={
                "record": approval.state.value,
                "in_force": approval.in_force.verdict,
                "by": approval.in_force.by,
            },
        )


def _found(approval: Approval | None, id: str) -> Approval:
    if approval is None:
        raise NotFound(f"no approval {id[:100]!r}: see `switchboard approvals`")
    return approval
