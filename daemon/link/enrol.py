"""How this machine comes to its certificate, and to the next one before the last is over."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import structlog
from switchboard_rpc.v1 import enroll_pb2, enroll_pb2_grpc, fleet_pb2, fleet_pb2_grpc
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random

from daemon.clock import Clock
from daemon.identity import (
    CannotJoin,
    Certificate,
    Identity,
    Machine,
    boot_id,
    fetch_root,
    read_address,
    read_invitation,
)
from daemon.link import channels
from daemon.settings import VERSION

log = structlog.get_logger()
DEADLINE_S = 20
LOOK_EVERY_S = 60


async def join(identity: Identity, address: str, token: str, name: str, clock: Clock, fleet: str = "") -> Machine:
    """Enrol this machine with a line from `switchboard machines invite`. Raises CannotJoin and BadAddress with one sentence.

    *fleet* is the address of the other port; without one it is the port below.
    """
    host, port, fingerprint = read_invitation(address, token)
    fleet = fleet or f"{_bracketed(host)}:{port - 1}"
    read_address(fleet)
    root = await asyncio.to_thread(fetch_root, host, port, fingerprint)
    request = enroll_pb2.EnrollRequest(token=token, csr_pem=identity.request(name), name=name[:200], version=VERSION)
    async with channels.enrolment(f"{_bracketed(host)}:{port}", root) as channel:
        # The request names the same key each time, so a reply that was lost is given again.
        tries = AsyncRetrying(
            retry=retry_if_exception(_cut), stop=stop_after_delay(DEADLINE_S), wait=wait_random(0.2, 1), reraise=True
        )
        try:
            async for attempt in tries:
                with attempt:
                    reply = await _enrolment(channel).Enroll(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            raise CannotJoin(f"the switchboard at {address} said no: {error.details() or error.code().name}") from error
    machine = Machine(id=reply.machine_id, name=name, fleet=fleet, enroll=f"{_bracketed(host)}:{port}")
    identity.put_root(root)
    identity.put_machine(machine)
    identity.put_certificate(_certificate(reply.certificate, clock))
    return machine


def _cut(error: BaseException) -> bool:
    """Tell whether the other side went away, rather than said no."""
    cut = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)
    return isinstance(error, grpc.aio.AioRpcError) and error.code() in cut


async def renew(identity: Identity, clock: Clock) -> None:
    """Trade the certificate for the next one, as an expired one where it is or may be. Raises NotEnrolled, AioRpcError."""
    left = identity.certificate().left_s(boot_id(), clock.boot_ms())
    if left is None or left > 0:
        try:
            await _renew_attached(identity, clock)
            return
        except grpc.aio.AioRpcError as error:
            # A certificate that is over shows as a connection that does not come about.
            if left is not None or error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
    await _renew_expired(identity, clock)


async def _renew_attached(identity: Identity, clock: Clock) -> None:
    request = fleet_pb2.RenewRequest(csr_pem=identity.request(identity.machine().name))
    async with channels.fleet(identity) as channel:
        reply = await _fleet(channel).Renew(request, timeout=DEADLINE_S)
    identity.put_certificate(_certificate(reply.certificate, clock))


async def _renew_expired(identity: Identity, clock: Clock) -> None:
    machine = identity.machine()
    csr = identity.request(machine.name)
    request = enroll_pb2.EnrollServiceRenewRequest(
        expired_pem=identity.certificate().certificate_pem.encode(), csr_pem=csr, signature=identity.sign(csr)
    )
    async with channels.enrolment(machine.enroll, identity.root_pem()) as channel:
        reply = await _enrolment(channel).Renew(request, timeout=DEADLINE_S)
    identity.put_certificate(_certificate(reply.certificate, clock))


async def keep_fresh(identity: Identity, clock: Clock, renewed: Callable[[], None]) -> None:
    """Renew at two thirds of the certificate's life, for ever; *renewed* is called each time."""
    while True:
        if identity.certificate().due(boot_id(), clock.boot_ms()):
            try:
                await renew(identity, clock)
                log.info("certificate renewed", generation=identity.certificate().generation)
                renewed()
            except grpc.aio.AioRpcError as error:
                log.warning("certificate not renewed, will try again", why=error.details() or error.code().name)
        await asyncio.sleep(LOOK_EVERY_S)


def _certificate(message: enroll_pb2.Certificate, clock: Clock) -> Certificate:
    return Certificate(
        certificate_pem=message.certificate_pem.decode(),
        ca_pem=message.ca_pem.decode(),
        life_s=message.life_s,
        generation=message.generation,
        received_boot_ms=clock.boot_ms(),
        boot=boot_id(),
    )


def _enrolment(channel: grpc.aio.Channel) -> Any:
    return enroll_pb2_grpc.EnrollServiceStub(channel)  # type: ignore[no-untyped-call]  # generated


def _fleet(channel: grpc.aio.Channel) -> Any:
    return fleet_pb2_grpc.FleetServiceStub(channel)  # type: ignore[no-untyped-call]  # generated


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
