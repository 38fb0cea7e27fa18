"""The gate of every route: who asks is settled, and held against the table, before a byte of the body is read."""

import base64
import binascii
import hmac
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from switchboard.domain.errors import Forbidden, Unauthenticated
from switchboard.domain.people import Caller, Session
from switchboard.services.people import People
from switchboard.web.access import TABLE, Rule
from switchboard.web.settings import WebSettings

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Who:
    """The caller of this request, and the browser's session where there is one."""

    caller: Caller
    session: Session | None = None


class Guard:
    def __init__(self, people: People, settings: WebSettings) -> None:
        self._people = people
        self._settings = settings

    async def admit(self, request: Request, rule: Rule) -> Who | None:
        """Return who asks; None on a public route. Raises Unauthenticated and Forbidden."""
        self._same_origin(request)
        if rule.public:
            return None
        who = await self.identify(request)
        if who.session is not None and request.method not in SAFE:
            self._from_the_page(request, who.session, rule)
        if rule.permission is not None:
            who.caller.need(rule.permission, f"{request.method} {request.url.path[:100]}")
        return who

    async def identify(self, request: Request) -> Who:
        """Read the proof that the request carries: a header's word comes before the cookie's."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        match scheme.lower():
            case "bearer":
                return Who(await self._people.tokens.caller(value.strip()))
            case "basic":
                person, password = _basic(value)
                return Who(await self._people.by_password(person, password, address=address_of(request)))
            case "":
                cookie = request.cookies.get(self._settings.cookie, "")
                if not cookie:
                    raise Unauthenticated("you are not signed in: sign in on the page, or send a token")
                caller, session = await self._people.by_cookie(cookie)
                return Who(caller, session)
        raise Unauthenticated("the Authorization header is neither Bearer TOKEN nor Basic NAME:PASSWORD")

    def _same_origin(self, request: Request) -> None:
        """Refuse what another site's page made a browser send; programs send none of these headers."""
        site = request.headers.get("sec-fetch-site", "none")
        api = request.url.path.startswith("/api/")
        if api and site not in {"same-origin", "none"}:
            raise Forbidden("this request comes from another site's page")
        origin = request.headers.get("origin")
        if origin is not None and not self._settings.ours(origin) and (api or request.method not in SAFE):
            raise Forbidden(f"this request comes from a page of {origin[:100]!r}, which is not this switchboard")

    def _from_the_page(self, request: Request, session: Session, rule: Rule) -> None:
        if request.headers.get("origin") is None:
            raise Forbidden("a browser's session needs the Origin header: programs use a token or a password")
        if not hmac.compare_digest(request.headers.get("x-csrf-token", "").encode(), session.csrf.encode()):
            raise Forbidden("the CSRF token is missing or wrong: reload the page")
        if not rule.cookie_alone and not self._people.holds_page(session, request.headers.get("x-page-secret", "")):
            raise Forbidden("this needs the page that you signed in on: sign in again here", needs="sign-in")


class Guarded(APIRoute):
    """A route that asks the guard first: body and parameters of a stranger are not even parsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        rules = {method: TABLE.get((method, self.path)) for method in self.methods or ()}

        async def guarded(request: Request) -> Response:
            rule = rules.get(request.method)
            if rule is None:
                raise Forbidden("nobody may do this: the route has no rule")
            guard: Guard = request.app.state.guard
            request.state.who = await guard.admit(request, rule)
            return await handle(request)

        return guarded


def address_of(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _basic(value: str) -> tuple[str, str]:
    try:
        person, colon, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        colon = ""
    if not colon:
        raise Unauthenticated("the Authorization header is not Basic NAME:PASSWORD")
    return person, password


async def _caller(request: Request) -> Caller:
    who: Who | None = request.state.who
    if who is None:
        raise Unauthenticated("you are not signed in")
    return who.caller


async def _session(request: Request) -> Session | None:
    who: Who | None = request.state.who
    return who.session if who else None


Asks = Annotated[Caller, Depends(_caller)]
InSession = Annotated[Session | None, Depends(_session)]
