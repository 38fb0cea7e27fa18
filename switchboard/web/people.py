"""The team: who there is, what they may do, and how they get in."""

from typing import Any

from fastapi import APIRouter

from switchboard.domain.errors import Invalid
from switchboard.domain.people import Person
from switchboard.web.access import V1
from switchboard.web.guard import Asks, Guarded
from switchboard.web.models import ChangePerson, InvitePerson
from switchboard.web.parts import Has, Shows

router = APIRouter(route_class=Guarded, tags=["people"])


@router.get(f"{V1}/people")
async def people(has: Has, shows: Shows) -> dict[str, Any]:
    return {"people": [shows.person(person) for person in has.people.everybody()]}


@router.post(f"{V1}/people", status_code=201)
async def invite(body: InvitePerson, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    """Add a person; the one-time link is for you to hand to them."""
    person, link = await has.people.invite(caller, body.id, body.display, body.role)
    return {"person": shows.person(person), "link": link}


@router.patch(f"{V1}/people/{{id}}")
async def change(id: str, body: ChangePerson, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    person: Person | None = None
    if body.role is not None:
        person = await has.people.set_role(caller, id, body.role)
    if body.disabled is not None:
        person = await has.people.disable(caller, id, body.disabled)
    if person is None:
        raise Invalid("role", "say what to change: role or disabled")
    return {"person": shows.person(person)}


@router.post(f"{V1}/people/{{id}}/link", status_code=201)
async def link(id: str, caller: Asks, has: Has) -> dict[str, Any]:
    """A one-time sign-in link, good for 15 minutes; one's own, or anybody's with the permission for people."""
    return {"link": await has.people.link(caller, id)}
