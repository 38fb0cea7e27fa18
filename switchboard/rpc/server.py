"""The two gRPC ports: one for machines that have a certificate, one for those that come to get one."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from switchboard_rpc.v1 import enroll_pb2_grpc, fleet_pb2_grpc

from switchboard.domain.errors import Unavailable
from switchboard.rpc.access import Gate
from switchboard.rpc.ca import Authority, Pair
from switchboard.rpc.enroll import EnrollServicer
from switchboard.rpc.fleet import FleetServicer
from switchboard.services.identity import Identity

Address = tuple[str, int]

LARGEST_MESSAGE = 8 << 20  # a hello of ten thousand runs, or a prompt of 1 MiB with its run, fits
LARGEST_ENROLMENT = 64 << 10
ENROLMENTS_AT_ONCE = 1_000  # that port answers anybody
STREAMS_PER_CONNECTION = 16
HANDSHAKE_MS = 20_000  # a herd on a small server takes its time
FILES_WANTED = 65_536

# All three are needed: with keepalive alone a cut line is noticed after a minute, not after seconds.
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
)
# The defaults answer a herd that reconnects with CANCELLED.
HERD = (
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    ("grpc.so_reuseport", 0),  # a port that is taken is an error, not a share
)


STOPPED_WITHIN = 3.0  # seconds after the grace


@dataclass(frozen=True, slots=True)
class Ports:
    fleet: int
    enroll: int


@asynccontextmanager
async def serving(
    *,
    fleet: Address,
    enroll: Address,
    servicer: FleetServicer,
    identity: Identity,
    enrolment: EnrollServicer,
    authority: Authority,
    grace: float = 1.0,
) -> AsyncIterator[Ports]:
    """Serve both ports while the block runs. Raises Unavailable for an address that cannot be had."""
    raise_file_limit()
    gate = Gate(authority, identity)
    machines = _server(gate, LARGEST_MESSAGE)
    # Generated code carries no types.
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(servicer, machines)  # type: ignore[no-untyped-call]
    newcomers = _server(gate, LARGEST_ENROLMENT, ENROLMENTS_AT_ONCE)
    enroll_pb2_grpc.add_EnrollServiceServicer_to_server(enrolment, newcomers)  # type: ignore[no-untyped-call]
    try:
        ports = Ports(
            _bind(machines, fleet, _credentials(authority.server(), authority.ca_pem)),
            _bind(newcomers, enroll, _credentials(authority.enroll, None)),
        )
        await machines.start()
        await newcomers.start()
        yield ports
    finally:
        await _stop(newcomers, grace)
        await _stop(machines, grace)


async def _stop(server: grpc.aio.Server, grace: float) -> None:
    # grpc waits for ever for a call that its peer left half way; whoever ends the server must not.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace + STOPPED_WITHIN):
            await server.stop(grace)


def raise_file_limit() -> None:
    """Let this process hold a connection for each machine: one beyond the limit would get neither answer nor error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS refuses what it promises; the old limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _server(gate: Gate, largest: int, at_once: int | None = None) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=[gate],
        maximum_concurrent_rpcs=at_once,
        options=[
            *KEEPALIVE,
            *HERD,
            ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
            ("grpc.max_receive_message_length", largest),
            ("grpc.max_send_message_length", -1),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ],
    )


def _credentials(pair: Pair, roots: bytes | None) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(pair.key, pair.certificate)], root_certificates=roots, require_client_auth=roots is not None
    )


def _bind(server: grpc.aio.Server, address: Address, credentials: grpc.ServerCredentials) -> int:
    host, port = address
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound: int = server.add_secure_port(text, credentials)
    except RuntimeError as error:
        raise Unavailable(f"{text} cannot be listened on: it is taken, or not an address of this machine") from error
    if not bound:
        raise Unavailable(f"{text} cannot be listened on: it is taken, or not an address of this machine")
    return bound
