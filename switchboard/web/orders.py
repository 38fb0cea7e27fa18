"""Stops: what one would hit, issuing it, how far it is, lifting it."""

from datetime import timedelta
from typing import Any

from fastapi import APIRouter

from switchboard.web.access import V1
from switchboard.web.guard import Asks, Guarded
from switchboard.web.models import Extend, IssueOrder, Preview, Why
from switchboard.web.parts import Has, Shows

router = APIRouter(route_class=Guarded, tags=["stops"])


@router.post(f"{V1}/orders/preview")
async def preview(body: Preview, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    """What the order would match at this moment; it changes nothing."""
    found = has.stops.preview(caller, body.selector.selector())
    return {
        "runs": [shows.run(caller, run) for run in found.runs[:200]],
        "count": len(found.runs),
        "machines": len({run.machine for run in found.runs}),
        "machines_told": found.machines,
        "machines_away": list(found.machines_away),
    }


@router.get(f"{V1}/orders")
async def orders(has: Has, shows: Shows) -> dict[str, Any]:
    """Newest first, lifted ones included."""
    return {"orders": [shows.order(order) for order in has.stops.orders()[:500]]}


@router.post(f"{V1}/orders", status_code=201)
async def issue(body: IssueOrder, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    """`narrowed` says that the caller's token is bound to one machine, and so is the order."""
    wanted = body.selector.selector()
    order = await has.stops.issue(caller, wanted, body.reason, hold=body.hold, request_id=body.request_id or None)
    return {"order": shows.order(order), "narrowed": order.selector != wanted}


@router.get(f"{V1}/orders/{{id}}")
async def status(id: str, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    found = has.stops.status(id)
    names = {machine.id: machine.name for machine in has.presence.machines()}
    rows = [
        {
            "run": row.run,
            "machine": row.machine,
            "machine_name": names.get(row.machine, row.machine),
            "standing": row.standing.value,
            "receipt": shows.receipt(caller, row.receipt) if row.receipt else None,
        }
        for row in found.rows
    ]
    return {
        "order": shows.order(found.order),
        "counts": dict(found.counts),
        "rows": rows,
        "machines": {"total": found.machines, "seen": found.seen, "away": list(found.away)},
    }


@router.post(f"{V1}/orders/{{id}}/lift")
async def lift(id: str, body: Why, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    return {"order": shows.order(await has.stops.lift(caller, id, body.reason))}


@router.post(f"{V1}/orders/{{id}}/extend")
async def extend(id: str, body: Extend, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    """Ask to be asked again later: a hold's review time moves."""
    until = has.clock.now() + timedelta(hours=body.hours)
    return {"order": shows.order(await has.stops.extend(caller, id, until))}
