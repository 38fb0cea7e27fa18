"""A daemon's identity. The id comes from its certificate, is random, and is never used again."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from switchboard.domain.errors import Conflict, Forbidden

JOIN_TOKEN_LIFE = timedelta(minutes=15)
CERTIFICATE_LIFE = timedelta(hours=24)
RENEWABLE_AFTER_EXPIRY = timedelta(days=30)


class Standing(StrEnum):
    ACTIVE = "active"
    REVOKED = "revoked"
    LOCKED = "locked"  # its certificate was copied: two keys claimed one renewal


@dataclass(frozen=True, slots=True)
class AgentProgram:
    name: str
    version: str = ""
    problem: str = ""
    signed_in: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    id: str
    name: str  # a label
    owner: str  # the person who invited it
    enrolled_at: datetime
    standing: Standing = Standing.ACTIVE
    # Renewals so far, the key that holds the newest certificate, and that certificate (sent again when its reply was lost).
    generation: int = 1
    key_fingerprint: str = ""
    certificate_pem: str = ""
    certificate_until: datetime
    taken_up: int = 0  # generation of the newest certificate that it has attached with
    connection: int = 0  # fencing number of its newest connection
    boot_epoch: str = ""
    version: str = ""
    platform: str = ""
    agents: tuple[AgentProgram, ...] = ()
    attached: bool = False
    seen_at: datetime | None = None  # last proof of life, by this server's clock
    orders_epoch: str = ""  # of the orders on its disk
    orders_generation: int = 0

    def checked(self) -> "Machine":
        """Return this machine. Raises Forbidden when it may not take part."""
        if self.standing is Standing.REVOKED:
            raise Forbidden(f"machine {self.name} was revoked: invite it anew")
        if self.standing is Standing.LOCKED:
            raise Forbidden(
                f"machine {self.name} is locked because its certificate was used from two places: revoke it and invite it anew"
            )
        return self

    def renewed(self, *, presented: int, fingerprint: str, certificate_pem: str, until: datetime) -> "Machine":
        """Return the machine with its next certificate. Raises Cloned when *presented* is not the newest generation."""
        if presented != self.generation:
            raise Cloned(
                f"machine {self.name} presented certificate generation {presented}, but {self.generation} was issued"
            )
        return replace(
            self,
            generation=self.generation + 1,
            key_fingerprint=fingerprint,
            certificate_pem=certificate_pem,
            certificate_until=until,
        )


class Cloned(Conflict):
    """A certificate that was renewed before, by another key: somebody has a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """Good for one enrolment within 15 minutes. Only its hash is stored."""

    id: str  # sha256 of the token
    name: str
    by: str
    until: datetime
    used_by: str = ""  # the machine that it became

    def used(self, machine: str, at: datetime) -> "JoinToken":
        if self.used_by:
            raise Forbidden("this join token was used before: make a fresh one with `switchboard machines invite`")
        if at >= self.until:
            raise Forbidden(
                "this join token is over 15 minutes old: make a fresh one with `switchboard machines invite`"
            )
        return replace(self, used_by=machine)
