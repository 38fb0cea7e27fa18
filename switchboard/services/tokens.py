"""API tokens: they lie on disks that agents read, so none can vote, lift, loosen, outgrow its person, or touch two machines."""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from switchboard.clock import Clock
from switchboard.domain.errors import Forbidden, Invalid, NotFound, Unauthenticated
from switchboard.domain.people import BOUND_BY_TOKEN, NEVER_BY_TOKEN, Caller, Permission, Token
from switchboard.services.ports import AuditLog, Records

LONGEST_LIFE = timedelta(days=366)
MACHINE_LIFE = timedelta(days=30)
PREFIX = "sbt_"  # so that scanners of leaked secrets know one
OF_MACHINE = "this machine"


class Persons(Protocol):
    async def caller_named(self, id: str, *, via: str) -> Caller: ...


def hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


class Tokens:
    def __init__(self, *, people: Persons, tokens: Records[Token], audit: AuditLog, clock: Clock) -> None:
        self._people, self._tokens, self._audit, self._clock = people, tokens, audit, clock

    async def caller(self, text: str) -> Caller:
        """Return who a token speaks for: of what it was given, what its person may still do, and never what no token may."""
        token = await self._tokens.get(hashed(text)) if text.startswith(PREFIX) else None
        if token is None:
            raise Unauthenticated("this token is not known here: make one with `switchboard tokens`")
        if self._clock.now() >= token.until:
            raise Unauthenticated(
                f"the token {token.name!r} expired at {token.until:%Y-%m-%d %H:%M} UTC: make a fresh one"
            )
        whole = await self._people.caller_named(token.person, via="token")
        never = NEVER_BY_TOKEN if token.machine else NEVER_BY_TOKEN | BOUND_BY_TOKEN
        return replace(whole, permits=(whole.permits & token.permits) - never, machine=token.machine)

    async def mint(
        self, caller: Caller, *, name: str, permits: Iterable[Permission], days: float, machine: str = ""
    ) -> tuple[str, Token]:
        """Return a fresh token, shown once, and its record.

        Raises Forbidden for what no token may, or what the caller may not, and Invalid for start or stop without a machine.
        """
        wanted = frozenset(permits)
        if caller.via == "token":
            raise Forbidden("a token may never make a token: sign in on the page")
        if not wanted:
            raise Invalid("permits", "say what the token may do: look, start, stop")
        if never := wanted & NEVER_BY_TOKEN:
            raise Forbidden(f"no token may ever hold {', '.join(sorted(never))}: tokens lie on disks that agents read")
        if not machine and (bound := wanted & BOUND_BY_TOKEN):
            raise Invalid("machine", f"a token may {' and '.join(sorted(bound))} on one machine only: say which")
        for permission in sorted(wanted):
            caller.need(permission, f"hand out {permission.value!r}")
        if not 0 < days <= LONGEST_LIFE.days:
            raise Invalid("days", f"a token lives between a moment and {LONGEST_LIFE.days} days")
        text = PREFIX + secrets.token_urlsafe(32)
        token = Token(
            id=hashed(text),
            name=" ".join(name.split())[:80] or "token",
            person=caller.person,
            permits=wanted,
            machine=machine,
            until=self._clock.now() + timedelta(days=days),
        )
        await self._tokens.change(token.id, lambda _: token)
        details = {"name": token.name, "permits": sorted(wanted), "machine": machine}
        await self._note(caller, "token.minted", token, details)
        return text, token

    async def for_machine(self, person: str, machine: str) -> str:
        """Return the token of a data directory, in place of the one before: it looks, and starts and stops on its own machine."""
        if not machine:
            raise Invalid("machine", "this token is for one machine: say which")
        owner = await self._people.caller_named(person, via="system")
        permits = {Permission.LOOK, Permission.START, Permission.STOP} & owner.permits
        for old in await self._tokens.all():
            if (old.person, old.machine, old.name) == (person, machine, OF_MACHINE):
                await self._tokens.delete(old.id)
        text, _ = await self.mint(owner, name=OF_MACHINE, permits=permits, days=MACHINE_LIFE.days, machine=machine)
        return text

    async def of(self, caller: Caller) -> list[Token]:
        """The caller's own, or everybody's for who may change people."""
        everybodys = Permission.PEOPLE in caller.permits
        return [t for t in await self._tokens.all() if everybodys or t.person == caller.person]

    async def revoke(self, caller: Caller, id: str) -> None:
        """Raises NotFound for one that is not the caller's, unless they may change people."""
        if caller.via == "token":
            raise Forbidden("a token may never revoke a token: sign in on the page")
        found = [t for t in await self.of(caller) if len(id) >= 12 and t.id.startswith(id)]
        if not found:
            raise NotFound(f"there is no token {id[:80]!r} of yours")
        for token in found:
            await self._tokens.delete(token.id)
            await self._note(caller, "token.revoked", token, {"name": token.name})

    async def _note(self, caller: Caller, action: str, token: Token, details: Mapping[str, object]) -> None:
        await self._audit.append(
            by=caller.person, via=caller.via, action=action, subject=token.id[:12], details=dict(details)
        )
