"""What waits for a person, and their answer."""

from typing import Any

from fastapi import APIRouter, Request

from switchboard.domain.approval import ApprovalState
from switchboard.domain.errors import Invalid
from switchboard.web.access import V1
from switchboard.web.guard import Asks, Guarded
from switchboard.web.models import CastVote
from switchboard.web.parts import Has, Shows

MOST = 10_000

router = APIRouter(route_class=Guarded, tags=["approvals"])


@router.get(f"{V1}/approvals")
async def approvals(caller: Asks, has: Has, shows: Shows, state: str = "", run: str = "") -> dict[str, Any]:
    """Open ones first, then newest first. `state` and `run` narrow."""
    if state and state not in {s.value for s in ApprovalState}:
        raise Invalid("state", f"there is no approval state {state[:40]!r}: take one of {', '.join(ApprovalState)}")
    found = has.approvals.listed(state=state or None, run=run or None)
    return {"approvals": [shows.approval(caller, a) for a in found[:MOST]]}


@router.get(f"{V1}/approvals/{{id}}")
async def approval(id: str, request: Request, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    """With all that it asks where the caller may read that; who reads it is on record, as with a run's output."""
    found = has.approvals.get(id)
    run = has.projection.run(found.run)
    if run is not None and has.runs.may_read(caller, run):
        await request.app.state.reads.note(caller, run)
    return shows.approval(caller, found)


@router.post(f"{V1}/approvals/{{id}}/votes")
async def vote(id: str, body: CastVote, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    """Approve or deny, once; 409 says who was first. The digest is of the request as the voter saw it."""
    decided = await has.approvals.vote(
        caller,
        id,
        verdict=body.verdict,
        digest=body.digest,
        note=body.note,
        input=body.input,
        vote_id=body.vote_id or None,
    )
    return shows.approval(caller, decided)
