"""Sign in, who am I, sign out. The cookie is the server's to read only; the page secret is handed out once and never rides in it."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from switchboard.domain.people import SESSION_LIFE
from switchboard.services.people import SignedIn
from switchboard.web.access import V1
from switchboard.web.guard import Asks, Guarded, InSession, address_of
from switchboard.web.models import NewPassword, SignIn, UseLink
from switchboard.web.parts import Has, Shows
from switchboard.web.settings import WebSettings

router = APIRouter(route_class=Guarded, tags=["session"])


@router.post(f"{V1}/session")
async def sign_in(request: Request, body: SignIn, has: Has, shows: Shows) -> Response:
    signed = await has.people.sign_in(body.person, body.password, address=address_of(request))
    return _welcome(request, signed, shows)


@router.post(f"{V1}/session/link")
async def use_link(request: Request, body: UseLink, has: Has, shows: Shows) -> Response:
    """Use a one-time link up; 409 with needs="password" asks for the password that its person has not chosen yet."""
    return _welcome(request, await has.people.use_link(body.secret, body.password), shows)


@router.get(f"{V1}/session")
async def who_am_i(caller: Asks, session: InSession, has: Has, shows: Shows) -> dict[str, Any]:
    person = has.projection.person(caller.person)
    about = shows.me(person) if person else {"person": caller.person, "solo": caller.solo}
    return {**about, "permits": sorted(caller.permits), "via": caller.via, "csrf": session.csrf if session else ""}


@router.delete(f"{V1}/session")
async def sign_out(request: Request, session: InSession, has: Has) -> Response:
    if session is not None:
        await has.people.sign_out(session)
    response = JSONResponse({"signed_out": True})
    _set_cookie(response, request.app.state.settings, "", 0)
    return response


@router.put(f"{V1}/session/password")
async def set_password(body: NewPassword, caller: Asks, session: InSession, has: Has) -> dict[str, Any]:
    await has.people.set_password(caller, body.password, keep=session)
    return {"changed": True}


def _welcome(request: Request, signed: SignedIn, shows: Shows) -> Response:
    about = {**shows.me(signed.person), "csrf": signed.session.csrf, "page_secret": signed.page_secret}
    response = JSONResponse(about)
    _set_cookie(response, request.app.state.settings, signed.cookie, int(SESSION_LIFE.total_seconds()))
    return response


def _set_cookie(response: Response, settings: WebSettings, value: str, age: int) -> None:
    response.set_cookie(
        settings.cookie, value, max_age=age, path="/", httponly=True, samesite="strict", secure=settings.secure
    )
