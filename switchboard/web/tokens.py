"""API tokens: shown once, kept as a hash, never able to vote, lift or loosen."""

from typing import Any

from fastapi import APIRouter

from switchboard.web.access import V1
from switchboard.web.guard import Asks, Guarded
from switchboard.web.models import MintToken
from switchboard.web.parts import Has, Shows

router = APIRouter(route_class=Guarded, tags=["tokens"])


@router.get(f"{V1}/tokens")
async def tokens(caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    found = await has.people.tokens.of(caller)
    return {"tokens": [shows.token(token) for token in sorted(found, key=lambda t: (t.person, t.name, t.id))]}


@router.post(f"{V1}/tokens", status_code=201)
async def mint(body: MintToken, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    text, token = await has.people.tokens.mint(
        caller, name=body.name, permits=body.permits, days=body.days, machine=body.machine
    )
    return {**shows.token(token), "token": text}


@router.delete(f"{V1}/tokens/{{id}}")
async def revoke(id: str, caller: Asks, has: Has) -> dict[str, Any]:
    await has.people.tokens.revoke(caller, id)
    return {"revoked": id}
