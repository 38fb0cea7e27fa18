"""The fleet's machines: invite, revoke, and what each kept safe of the runs that were stopped on it."""

from typing import Any

from fastapi import APIRouter

from switchboard.domain.errors import Forbidden, NotFound
from switchboard.domain.machine import Machine
from switchboard.domain.people import Caller, Permission
from switchboard.web.access import V1
from switchboard.web.answers import plain
from switchboard.web.guard import Asks, Guarded
from switchboard.web.models import InviteMachine, Restore, Why
from switchboard.web.parts import Has, Shows

ANSWER_S, RESTORE_S = 30.0, 150.0  # more than a machine takes before it gives up and says why

router = APIRouter(route_class=Guarded, tags=["machines"])


@router.get(f"{V1}/machines")
async def machines(has: Has, shows: Shows) -> dict[str, Any]:
    found = has.presence.machines()
    running: dict[str, int] = {}
    for run in has.projection.runs():
        if run.active:
            running[run.machine] = running.get(run.machine, 0) + 1
    return {"machines": [{**shows.machine(m), "runs": running.get(m.id, 0)} for m in found]}


@router.post(f"{V1}/machines/invites", status_code=201)
async def invite(body: InviteMachine, caller: Asks, has: Has) -> dict[str, Any]:
    """One line to paste on the machine, good once and for 15 minutes."""
    token, record = await has.identity.invite(caller, body.name)
    return {
        "token": token,
        "command": f"switchboard-daemon join {has.enroll} {token} --fleet {has.fleet}",
        "until": record.until.isoformat(),
    }


@router.post(f"{V1}/machines/{{id}}/revoke")
async def revoke(id: str, body: Why, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    _found(has, id)
    return {"machine": shows.machine(await has.identity.revoke(caller, id, body.reason))}


@router.get(f"{V1}/machines/{{id}}/safety")
async def safety(id: str, caller: Asks, has: Has) -> Any:
    _may_use(caller, _found(has, id))
    return plain(await has.queries.ask(id, {"safety": {"verb": "list"}}, ANSWER_S, by=caller.person))


@router.get(f"{V1}/machines/{{id}}/safety/{{sid}}")
async def safety_copy(id: str, sid: str, caller: Asks, has: Has) -> Any:
    _may_use(caller, _found(has, id))
    return plain(await has.queries.ask(id, {"safety": {"verb": "show", "id": sid}}, ANSWER_S, by=caller.person))


@router.post(f"{V1}/machines/{{id}}/safety/{{sid}}/restore")
async def restore(id: str, sid: str, body: Restore, caller: Asks, has: Has) -> Any:
    """Write a copy into a new or empty folder of its own machine."""
    _may_use(caller, _found(has, id))
    answer = await has.queries.ask(
        id, {"safety": {"verb": "restore", "id": sid, "into": body.into}}, RESTORE_S, by=caller.person
    )
    await has.audit.append(
        by=caller.person, via=caller.via, action="safety.restored", subject=f"{id}/{sid}", details={"into": body.into}
    )
    return plain(answer)


def _found(has: Has, id: str) -> Machine:
    machine = has.presence.machine(id)
    if machine is None:
        raise NotFound(f"there is no machine {id[:100]!r}")
    return machine


def _may_use(caller: Caller, machine: Machine) -> None:
    """Raises Forbidden: safety copies hold people's unfinished work, so they are the machine owner's and the incident leads'."""
    if caller.machine and caller.machine != machine.id:
        raise Forbidden(f"this token is bound to another machine than {machine.name}")
    if caller.person != machine.owner and Permission.LIFT not in caller.permits:
        raise Forbidden(
            f"the safety copies of {machine.name} are for {machine.owner}, its owner, and for incident leads"
        )
