"""Every vote in the audit, once: written beside its way to the machine, and made up for where a server died in between."""

import asyncio

from switchboard.domain.approval import Vote
from switchboard.services.ports import AuditLog
from switchboard.services.projection import Projection

AT_ONCE = 200  # the audit writes them together


class VoteAudit:
    def __init__(self, audit: AuditLog, projection: Projection) -> None:
        self._audit = audit
        self._projection = projection
        self._there: set[tuple[str, str]] = set()  # (approval, vote) that are known to be in the audit

    async def note(self, approval: str, vote: Vote) -> None:
        """Write a vote down unless it is there. Raises Unavailable."""
        await self._audit.append(
            by=vote.by,
            via=vote.via,
            action="approval.voted" if vote.counted else "approval.voted-late",
            subject=approval,
            reason=vote.note[:2000],
            details={
                "verdict": vote.verdict.value,
                "digest": vote.digest,
                "edited": vote.edited_digest,
                "vote": vote.id,
            },
            once=vote.id,
        )
        self._there.add((approval, vote.id))

    async def make_good(self) -> None:
        """Write down the votes on record that no replica lived to write down."""
        votes = {(approval.id, vote.id): vote for approval in self._projection.approvals() for vote in approval.votes}
        self._there &= votes.keys()
        missing = [(approval, vote) for (approval, id), vote in votes.items() if (approval, id) not in self._there]
        for start in range(0, len(missing), AT_ONCE):
            await asyncio.gather(*(self.note(*one) for one in missing[start : start + AT_ONCE]))
