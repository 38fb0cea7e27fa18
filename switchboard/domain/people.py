"""People, what their roles permit, and what they carry: passwords, sessions, links and tokens, all stored as hashes."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from switchboard.domain.errors import Forbidden

SESSION_LIFE = timedelta(hours=12)
LINK_LIFE = timedelta(minutes=15)


class Permission(StrEnum):
    LOOK = "look"  # the lists, and the content that the content rule gives
    START = "start"  # start, message, interrupt, resume runs
    STOP = "stop"  # issue stop orders
    LIFT = "lift"
    VOTE = "vote"
    INVITE_MACHINE = "invite-machine"
    REVOKE_MACHINE = "revoke-machine"
    PEOPLE = "people"  # invite, change roles
    AUDIT = "audit"
    PURGE = "purge"


class Role(StrEnum):
    VIEWER = "viewer"
    DEVELOPER = "developer"
    REVIEWER = "reviewer"
    INCIDENT_LEAD = "incident-lead"
    ADMIN = "admin"


_P = Permission
ROLE_PERMITS: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({_P.LOOK}),
    Role.DEVELOPER: frozenset({_P.LOOK, _P.START, _P.STOP, _P.INVITE_MACHINE}),
    Role.REVIEWER: frozenset({_P.LOOK, _P.START, _P.STOP, _P.INVITE_MACHINE, _P.VOTE}),
    Role.INCIDENT_LEAD: frozenset({_P.LOOK, _P.START, _P.STOP, _P.INVITE_MACHINE, _P.VOTE, _P.LIFT, _P.AUDIT}),
    Role.ADMIN: frozenset(Permission),
}

# A token lies on a disk that an agent can read, so none of these can ever ride on one.
NEVER_BY_TOKEN = frozenset({_P.VOTE, _P.LIFT, _P.PEOPLE, _P.INVITE_MACHINE, _P.REVOKE_MACHINE, _P.PURGE, _P.AUDIT})
# These ride on a token only with the one machine that it names: no token on a disk may touch another.
BOUND_BY_TOKEN = frozenset({_P.START, _P.STOP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    id: str  # the name they sign in with: lower case, [a-z0-9._-], 1 to 40
    display: str
    role: Role
    password_hash: str = ""  # argon2; empty until they choose one
    disabled: bool = False
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A one-time sign-in link, good for 15 minutes. GET shows a page; only the page's POST uses it."""

    id: str  # sha256 of its secret
    person: str
    until: datetime
    used: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A browser's session. The page secret never rides in a cookie, so another port's server never receives it."""

    id: str  # sha256 of the cookie's secret
    person: str
    csrf: str
    page_hash: str  # sha256 of the secret that the page keeps for its own origin
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    id: str  # sha256 of the token
    name: str
    person: str
    permits: frozenset[Permission]
    machine: str = ""  # the one on which it may start and stop; without it it only looks
    until: datetime


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, how they proved it, and what that permits: the argument of every use case."""

    person: str
    permits: frozenset[Permission]
    via: str  # session, token, password, daemon, system
    machine: str = ""  # a token's bound
    solo: bool = False

    def need(self, permission: Permission, to: str) -> None:
        """Raises Forbidden unless the caller may; *to* completes the sentence "you may not …"."""
        if permission in self.permits:
            return
        if self.via == "token" and permission in NEVER_BY_TOKEN:
            raise Forbidden(
                f"a token may never {to}: sign in on the page, or use --as NAME, which asks for your password"
            )
        raise Forbidden(f"{self.person or 'this caller'} may not {to}: it needs the permission {permission.value!r}")
