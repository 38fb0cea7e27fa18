"""What is about the switchboard itself: is it up, what its API looks like, its audit, and the fate of one instruction."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import TypeAdapter

from switchboard.domain.audit import Entry
from switchboard.web.access import V1
from switchboard.web.guard import Asks, Guarded
from switchboard.web.parts import Has, Shows

router = APIRouter(route_class=Guarded, tags=["switchboard"])
_ENTRY = TypeAdapter(Entry)


@router.get("/healthz", include_in_schema=False)
@router.get(f"{V1}/healthz")
async def healthz() -> dict[str, Any]:
    return {"ok": True}


@router.get(f"{V1}/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Any:
    return request.app.openapi()


@router.get(f"{V1}/audit")
async def audit(
    caller: Asks, has: Has, before: int | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    """Newest first; each entry holds the hash of the one before it."""
    entries = await has.audit.read(before, limit)
    return {"entries": [_ENTRY.dump_python(entry, mode="json") for entry in entries]}


@router.get(f"{V1}/audit/verdict")
async def verdict(has: Has) -> dict[str, Any]:
    """Walk the whole chain: the number of the first entry that was changed, cut out or cut off; null when it is whole."""
    return {"broken_at": await has.audit.verify()}


@router.get(f"{V1}/instructions/{{id}}")
async def instruction(id: str, has: Has, shows: Shows) -> dict[str, Any]:
    return {"instruction": shows.instruction(await has.instructions.get(id))}
