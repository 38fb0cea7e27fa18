"""How a machine comes to be known, stays known and is thrown out: invite, enrol, renew, revoke, and the lock of a copied one."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from switchboard import faults
from switchboard.clock import Clock
from switchboard.domain.errors import Conflict, Forbidden, Invalid, NotFound, SwitchboardError, Unavailable
from switchboard.domain.machine import JOIN_TOKEN_LIFE, Cloned, JoinToken, Machine, Standing
from switchboard.domain.people import Caller, Permission
from switchboard.services.book import Book
from switchboard.services.ports import AuditLog, Records
from switchboard.services.projection import Projection

log = structlog.get_logger()

TOKEN_PREFIX = "sbj_"  # noqa: S105  so that scanners of leaked secrets know one
LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Issued:
    certificate_pem: str
    until: datetime
    fingerprint: str  # of its key


@dataclass(frozen=True, slots=True)
class Presented:
    """What a certificate of ours says of its bearer."""

    machine: str
    generation: int
    fingerprint: str
    until: datetime


class Issuer(Protocol):
    """The certificate authority, as this needs it."""

    @property
    def enroll_fingerprint(self) -> str: ...

    def fingerprint(self, csr_pem: bytes) -> str:
        """Of the key that the request proves to hold. Raises Invalid."""

    def issue(self, csr_pem: bytes, machine: str, generation: int) -> Issued: ...


class Register(Protocol):
    """Machines on this server's own disk: what an emptied store cannot un-revoke."""

    def remember(self, machine: Machine) -> None: ...

    def recall(self, id: str) -> Machine | None: ...


class Identity:
    def __init__(
        self,
        *,
        machines: Book[Machine],
        join_tokens: Records[JoinToken],
        projection: Projection,
        issuer: Issuer,
        register: Register,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._machines = machines
        self._join_tokens = join_tokens
        self._projection = projection
        self._issuer = issuer
        self._register = register
        self._audit = audit
        self._clock = clock
        self._copies_told: set[tuple[str, int]] = set()
        self._listeners: list[Callable[[str, SwitchboardError], None]] = []

    def on_barred(self, listener: Callable[[str, SwitchboardError], None]) -> None:
        """Call *listener*(machine, why) at once when a machine is revoked or locked here."""
        self._listeners.append(listener)

    async def invite(self, caller: Caller, name: str) -> tuple[str, JoinToken]:
        """Return the text of a one-use join token, which is shown once, and its record."""
        caller.need(Permission.INVITE_MACHINE, "invite a machine")
        secret = secrets.token_hex(20)
        token = JoinToken(
            id=_hashed(secret), name=label(name), by=caller.person, until=self._clock.now() + JOIN_TOKEN_LIFE
        )
        await self._join_tokens.change(token.id, lambda _: token)
        await self._audit.append(by=caller.person, via=caller.via, action="machine.invited", subject=token.name or "-")
        return f"{TOKEN_PREFIX}{secret}_{self._issuer.enroll_fingerprint}", token

    async def enrol(self, token: str, csr_pem: bytes, name: str, version: str) -> tuple[Machine, str]:
        """Trade a join token and a request for (machine, certificate). The same request again gets the same answer."""
        secret = _secret_of(token)
        fingerprint = self._issuer.fingerprint(csr_pem)
        # From the one-use secret and the key: random to everybody else, and the same when a lost reply is asked for again.
        id = "m-" + hashlib.sha256(f"{secret}/{fingerprint}".encode()).hexdigest()[:16]
        now = self._clock.now()

        def use(found: JoinToken | None) -> JoinToken:
            if found is None:
                raise Forbidden("this join token is not known here: make one with `switchboard machines invite`")
            return found if found.used_by == id else found.used(id, now)

        used = await self._join_tokens.change(_hashed(secret), use)
        assert used is not None
        issued = self._issuer.issue(csr_pem, id, 1)

        def enrolled(found: Machine | None) -> Machine:
            if found is not None:
                return found.checked()
            return Machine(
                id=id,
                name=used.name or label(name) or id,
                owner=used.by,
                enrolled_at=now,
                version=version[:LONGEST_NAME],
                key_fingerprint=issued.fingerprint,
                certificate_pem=issued.certificate_pem,
                certificate_until=issued.until,
            )

        machine = await self._machines.change(id, enrolled)
        assert machine is not None
        self._register.remember(machine)
        faults.point("service.machine.enrolled")
        await self._audit.append(by=used.by, via="daemon", action="machine.enrolled", subject=id, reason=machine.name)
        return machine, machine.certificate_pem

    async def renew(self, presented: Presented, csr_pem: bytes) -> tuple[Machine, str]:
        """Return (machine, its next certificate); the stored one when the reply was lost. A copy locks the machine."""
        fingerprint = self._issuer.fingerprint(csr_pem)
        await self._known(presented.machine)
        copied: list[Cloned] = []

        def renewed(found: Machine | None) -> Machine | None:
            copied.clear()
            if found is None:
                raise _unknown(presented.machine)
            found.checked()
            if fingerprint == found.key_fingerprint and presented.generation < found.generation:
                return None  # the same request again: its reply was lost
            issued = self._issuer.issue(csr_pem, found.id, found.generation + 1)
            try:
                return found.renewed(
                    presented=presented.generation,
                    fingerprint=issued.fingerprint,
                    certificate_pem=issued.certificate_pem,
                    until=issued.until,
                )
            except Cloned as clone:
                copied.append(clone)
                return replace(found, standing=Standing.LOCKED)

        machine = await self._machines.change(presented.machine, renewed)
        assert machine is not None
        self._register.remember(machine)
        if copied:
            raise await self._locked(machine, str(copied[0]))
        await self._audit.append(
            by=machine.id,
            via="daemon",
            action="machine.renewed",
            subject=machine.id,
            details={"to": machine.generation},
        )
        return machine, machine.certificate_pem

    async def check(self, presented: Presented) -> Machine:
        """Return the machine that a certificate names. Raises Forbidden when it may not take part, or the certificate is an old copy."""
        machine = (await self._known(presented.machine)).checked()
        # One behind is a renewal whose reply was lost; further behind is a copy. It is refused rather than locked,
        # so that whoever holds an old copy cannot throw the real machine out.
        if presented.generation < machine.generation - 1:
            await self._tell_of_copy(machine, presented.generation)
            raise Forbidden(
                f"machine {machine.name} showed an old copy of its certificate: if its home was restored from a backup, "
                "revoke it and invite it anew"
            )
        return machine

    def barred(self, id: str) -> SwitchboardError | None:
        """Say from memory why a machine may not take part; None when it may, or nobody knows."""
        machine = self._machines.peek(id)
        try:
            if machine is not None:
                machine.checked()
        except Forbidden as error:
            return error
        return None

    def superseded(self, presented: Presented) -> SwitchboardError | None:
        """Say from memory why a stream may not be held by this certificate; None while its machine has taken up no newer one."""
        machine = self._machines.peek(presented.machine)
        if machine is None or presented.generation >= machine.taken_up:
            return None
        return Unavailable(f"machine {machine.name} has taken up a newer certificate: dial again with that one")

    async def check_newest(self, presented: Presented) -> None:
        """Raises Unavailable, after an alarm, for a certificate whose machine has taken up a newer one: a copy has come to it."""
        if (error := self.superseded(presented)) is not None:
            await self._tell_of_copy(await self._known(presented.machine), presented.generation)
            raise error

    async def revoke(self, caller: Caller, id: str, reason: str) -> Machine:
        """Throw a machine out, for good; its streams close at once."""
        caller.need(Permission.REVOKE_MACHINE, "revoke a machine")
        if not reason.strip():
            raise Invalid("reason", "say why the machine is revoked: its owner will ask")
        await self._known(id)

        def revoked(found: Machine | None) -> Machine | None:
            if found is None:
                raise NotFound(f"no machine {id}: see `switchboard machines`")
            return None if found.standing is Standing.REVOKED else replace(found, standing=Standing.REVOKED)

        machine = await self._machines.change(id, revoked)
        assert machine is not None
        self._register.remember(machine)
        await self._audit.append(
            by=caller.person, via=caller.via, action="machine.revoked", subject=id, reason=reason[:1000]
        )
        self._tell(machine)
        return machine

    async def lock(self, id: str, why: str) -> None:
        """Lock a machine that two daemons claim to be."""

        def locked(found: Machine | None) -> Machine | None:
            if found is None or found.standing is not Standing.ACTIVE:
                return None
            return replace(found, standing=Standing.LOCKED)

        machine = await self._machines.change(id, locked)
        if machine is not None:
            self._register.remember(machine)
            await self._locked(machine, why)

    async def _known(self, id: str) -> Machine:
        """Return a machine from memory, the store, or, where the store lost it, this server's own disk. Raises Forbidden."""
        machine = self._machines.peek(id) or await self._machines.get(id)
        if machine is not None:
            return machine
        recalled = self._register.recall(id)
        if recalled is None:
            raise _unknown(id)
        log.warning("the store has lost a machine; it is put back from the register", machine=id)
        restored = await self._machines.change(id, lambda found: recalled if found is None else None)
        assert restored is not None
        return restored

    async def _locked(self, machine: Machine, why: str) -> Forbidden:
        await self._alarm(machine, why)
        self._tell(machine)
        return Forbidden(f"machine {machine.name} is locked because its certificate was used from two places: {why}")

    async def _tell_of_copy(self, machine: Machine, generation: int) -> None:
        if (machine.id, generation) not in self._copies_told:
            self._copies_told.add((machine.id, generation))
            await self._alarm(machine, f"certificate generation {generation} of {machine.generation} was used")

    async def _alarm(self, machine: Machine, why: str) -> None:
        log.error("a machine's certificate was copied", machine=machine.id, name=machine.name, why=why)
        await self._audit.append(
            by="switchboard", via="system", action="machine.copied", subject=machine.id, reason=why
        )

    def _tell(self, machine: Machine) -> None:
        try:
            machine.checked()
        except Forbidden as error:
            for listener in self._listeners:
                listener(machine.id, error)


def label(text: str) -> str:
    """Return what people may call a thing: printable, on one line, short."""
    return "".join(c if c.isprintable() else " " for c in text).strip()[:LONGEST_NAME]


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _secret_of(token: str) -> str:
    """Return the secret in sbj_SECRET_FINGERPRINT, or the text itself. Raises Invalid."""
    if not token or len(token) > 300:
        raise Invalid("token", "the join token is not whole: copy the line of `switchboard machines invite` again")
    return token.removeprefix(TOKEN_PREFIX).rpartition("_")[0] if token.startswith(TOKEN_PREFIX) else token


def _unknown(id: str) -> Conflict | Forbidden:
    return Forbidden(f"machine {id[:40]} is not known here: invite it anew with `switchboard machines invite`")
