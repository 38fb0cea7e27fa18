"""Who somebody is: people, their passwords, sessions and one-time links. Only hashes of secrets are ever stored."""

import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from switchboard import faults
from switchboard.clock import Clock
from switchboard.domain.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated, Unavailable
from switchboard.domain.people import (
    LINK_LIFE,
    ROLE_PERMITS,
    SESSION_LIFE,
    Caller,
    Link,
    Permission,
    Person,
    Role,
    Session,
    Token,
)
from switchboard.services.book import Book
from switchboard.services.passwords import Passwords
from switchboard.services.ports import AuditLog, Records
from switchboard.services.projection import Projection
from switchboard.services.throttle import Throttle
from switchboard.services.tokens import Tokens, hashed

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


class TooManyTries(Unavailable):
    """Raised before a password is even looked at; *wait* says for how long."""

    def __init__(self, wait: timedelta) -> None:
        seconds = max(1, round(wait.total_seconds()))
        super().__init__(f"too many wrong passwords: wait {seconds} s, or use a one-time link", wait_s=seconds)
        self.seconds = seconds


class PasswordNeeded(Conflict):
    """A link that is good, of a person who has no password yet; it is not used up."""

    def __init__(self, person: Person) -> None:
        super().__init__(
            f"choose a password for {person.id}", needs="password", person=person.id, display=person.display
        )


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What a sign-in hands out, once: only the browser keeps the two secrets."""

    person: Person
    session: Session
    cookie: str
    page_secret: str


class People:
    def __init__(
        self,
        *,
        people: Book[Person],
        sessions: Records[Session],
        links: Records[Link],
        tokens: Records[Token],
        projection: Projection,
        audit: AuditLog,
        clock: Clock,
        base_url: str,
        passwords: Passwords | None = None,
    ) -> None:
        self._people = people
        self._sessions = sessions
        self._links = links
        self.tokens = Tokens(people=self, tokens=tokens, audit=audit, clock=clock)
        self._projection = projection
        self._audit = audit
        self._clock = clock
        self._base_url = base_url.rstrip("/")
        self._passwords = passwords or Passwords()
        self._throttle = Throttle()

    # Who asks

    def solo(self) -> bool:
        """Say whether one person is all there is, who then decides on their own runs."""
        return sum(not person.disabled for person in self._projection.people()) == 1

    def everybody(self) -> list[Person]:
        return sorted(self._projection.people(), key=lambda person: person.id)

    async def sign_in(self, person: str, password: str, *, address: str) -> SignedIn:
        return await self._session_of(await self._checked(person, password, address), via="password")

    async def use_link(self, secret: str, password: str | None = None) -> SignedIn:
        """Trade a one-time link for a session; with *password* it becomes the person's. Raises PasswordNeeded when there is none yet."""
        id, now = hashed(secret), self._clock.now()
        link = await self._links.get(id)
        if link is None or link.used or now >= link.until:
            raise Unauthenticated(_dead_link(link))
        person = self._enabled(await self._people.get(link.person))
        if not person.password_hash and not password:
            raise PasswordNeeded(person)
        chosen = await self._passwords.hash(password, person.id) if password else ""

        def use(stored: Link | None) -> Link:
            if stored is None or stored.used:
                raise Unauthenticated(_dead_link(stored))
            return replace(stored, used=True)

        await self._links.change(id, use)
        faults.point("service.link.used")
        if chosen:
            person = await self._with_password(person.id, chosen, by=person.id, via="link")
        return await self._session_of(person, via="link")

    async def by_cookie(self, cookie: str) -> tuple[Caller, Session]:
        """Raises Unauthenticated when the session is unknown or over."""
        session = await self._sessions.get(hashed(cookie))
        if session is None or self._clock.now() >= session.until:
            raise Unauthenticated("you are not signed in, or your session is over: sign in again")
        return self._caller(self._enabled(await self._people.get(session.person)), via="session"), session

    async def by_password(self, person: str, password: str, *, address: str) -> Caller:
        return self._caller(await self._checked(person, password, address), via="password")

    def holds_page(self, session: Session, secret: str) -> bool:
        """Say whether *secret* is the one that the page got at sign-in, which another port's server never receives."""
        return hmac.compare_digest(session.page_hash, hashed(secret))

    async def sign_out(self, session: Session) -> None:
        await self._sessions.delete(session.id)

    # People

    async def ensure_first(self, id: str) -> Person:
        """Return the first person, made as an admin when there is nobody yet."""
        everybody = self._projection.people()
        if everybody:
            return next((p for p in everybody if p.id == id), min(everybody, key=lambda p: p.created_at))
        first = Person(id=_name(id), display=id, role=Role.ADMIN, created_at=self._clock.now())
        stands = await self._people.change(first.id, lambda stored: stored or first)
        await self._audit.append(
            by="system", via="system", action="person.invited", subject=first.id, reason="the first one"
        )
        return stands or first

    async def first_link(self, id: str) -> str:
        """Return a one-time link for *id*, asked for on the machine that the switchboard runs on."""
        return await self._link(self._enabled(await self._people.get(id)), by="system", via="system")

    async def invite(self, caller: Caller, id: str, display: str, role: Role) -> tuple[Person, str]:
        """Add a person and return the one-time link to hand to them. Raises Conflict when the name is taken."""
        caller.need(Permission.PEOPLE, "invite people")
        shown = " ".join(display.split())[:80] or id
        person = Person(id=_name(id), display=shown, role=role, created_at=self._clock.now())

        def add(stored: Person | None) -> Person:
            if stored is not None:
                raise Conflict(
                    f"there is a person called {person.id} already: choose another name, or make them a link"
                )
            return person

        await self._people.change(person.id, add)
        await self._note(caller, "person.invited", person.id, role=role.value)
        return person, await self._link(person, by=caller.person, via=caller.via)

    async def link(self, caller: Caller, id: str) -> str:
        """Return a one-time sign-in link for somebody; for oneself it needs no permission."""
        if id != caller.person or caller.via == "token":
            caller.need(Permission.PEOPLE, "make a sign-in link for somebody else")
        return await self._link(self._enabled(await self._found(id)), by=caller.person, via=caller.via)

    async def set_role(self, caller: Caller, id: str, role: Role) -> Person:
        caller.need(Permission.PEOPLE, "change roles")
        person = await self._change(id, lambda stored: replace(stored, role=role))
        await self._note(caller, "person.role", id, role=role.value)
        return person

    async def disable(self, caller: Caller, id: str, disabled: bool = True) -> Person:
        """Shut somebody out, sessions and tokens included, or let them back in."""
        caller.need(Permission.PEOPLE, "disable people")
        person = await self._change(id, lambda stored: replace(stored, disabled=disabled))
        if disabled:
            await self._forget_sessions(id)
        await self._note(caller, "person.disabled" if disabled else "person.enabled", id)
        return person

    async def set_password(self, caller: Caller, password: str, keep: Session | None = None) -> None:
        """Change the caller's own password; their other sessions end."""
        if caller.via not in {"session", "password"}:
            raise Forbidden("a token may never change a password: sign in on the page")
        chosen = await self._passwords.hash(password, caller.person)
        await self._with_password(caller.person, chosen, by=caller.person, via=caller.via, keep=keep)

    async def caller_named(self, id: str, *, via: str) -> Caller:
        """Return what a person may do at this moment. Raises Unauthenticated when they are gone or shut out."""
        return self._caller(self._enabled(await self._people.get(id)), via=via)

    # Inside

    def _caller(self, person: Person, *, via: str) -> Caller:
        return Caller(person=person.id, permits=ROLE_PERMITS[person.role], via=via, solo=self.solo())

    def _enabled(self, person: Person | None) -> Person:
        if person is None or person.disabled:
            raise Unauthenticated("this account is not known here, or was disabled: ask an admin")
        return person

    async def _found(self, id: str) -> Person:
        person = await self._people.get(id) if NAME.fullmatch(id) else None
        if person is None:
            raise NotFound(f"there is nobody called {id[:60]!r}")
        return person

    async def _checked(self, id: str, password: str, address: str) -> Person:
        """Return the person behind a name and a password; says nothing about which of them was wrong."""
        name = id.strip().lower()[:80]
        if wait := self._throttle.take(name, address, self._clock.now()):
            raise TooManyTries(wait)
        person = await self._people.get(name) if NAME.fullmatch(name) else None
        fits = await self._passwords.fits(password, person.password_hash if person else "")
        if person is None or not fits or person.disabled:
            raise Unauthenticated("the name or the password is wrong")
        self._throttle.succeeded(name, address)
        return person

    async def _session_of(self, person: Person, *, via: str) -> SignedIn:
        cookie, page_secret = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        session = Session(
            id=hashed(cookie),
            person=person.id,
            csrf=secrets.token_urlsafe(24),
            page_hash=hashed(page_secret),
            until=self._clock.now() + SESSION_LIFE,
        )
        await self._sessions.change(session.id, lambda _: session)
        await self._audit.append(by=person.id, via=via, action="person.signed-in", subject=person.id)
        return SignedIn(person, session, cookie, page_secret)

    async def _link(self, person: Person, *, by: str, via: str) -> str:
        secret = secrets.token_urlsafe(32)
        link = Link(id=hashed(secret), person=person.id, until=self._clock.now() + LINK_LIFE)
        await self._links.change(link.id, lambda _: link)
        await self._audit.append(by=by, via=via, action="person.link", subject=person.id)
        # In the fragment: it never reaches a server's log, and no mail scanner's GET can use it up.
        return f"{self._base_url}/sign-in#{secret}"

    async def _change(self, id: str, change: Callable[[Person], Person]) -> Person:
        """Change a person. Raises Conflict rather than leave the team without an admin."""
        before = await self._found(id)
        admins = [p for p in self._projection.people() if p.role is Role.ADMIN and not p.disabled]

        def decide(stored: Person | None) -> Person:
            after = change(stored or before)
            if (after.disabled or after.role is not Role.ADMIN) and [p.id for p in admins] == [id]:
                raise Conflict(f"{id} is the only admin: make somebody else an admin first")
            return after

        return await self._people.change(id, decide) or before

    async def _with_password(self, id: str, chosen: str, *, by: str, via: str, keep: Session | None = None) -> Person:
        person = await self._people.change(id, lambda stored: replace(self._enabled(stored), password_hash=chosen))
        await self._forget_sessions(id, keep)
        await self._audit.append(by=by, via=via, action="person.password", subject=id)
        return self._enabled(person)

    async def _forget_sessions(self, person: str, keep: Session | None = None) -> None:
        for session in await self._sessions.all():
            if session.person == person and (keep is None or session.id != keep.id):
                await self._sessions.delete(session.id)

    async def _note(self, caller: Caller, action: str, subject: str, **details: object) -> None:
        await self._audit.append(
            by=caller.person, via=caller.via, action=action, subject=subject, details=dict(details)
        )


def _name(id: str) -> str:
    """Return *id*. Raises Invalid when nobody can be called that."""
    if not NAME.fullmatch(id):
        raise Invalid("id", f"{id[:60]!r} cannot be a name: take 1 to 40 of a-z, 0-9, dot, dash and underscore")
    return id


def _dead_link(link: Link | None) -> str:
    if link is not None and link.used:
        return "this link was used before, and each works once: ask for a fresh one"
    return "this link is not known here, or is over 15 minutes old: ask for a fresh one"
