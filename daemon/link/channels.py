"""How this machine dials: mutual TLS, links that notice when they are dead, and patience that does not come in herds."""

import asyncio
import random
import resource
from collections.abc import Sequence

import grpc

from daemon.identity import Identity

# All three keepalive options: without the ping timeout a dead link shows only after a minute.
OPTIONS: Sequence[tuple[str, str | int]] = (
    ("grpc.ssl_target_name_override", "switchboard"),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 * 2**20),  # a welcome with ten thousand orders
    ("grpc.max_send_message_length", 8 * 2**20),
    ("grpc.use_local_subchannel_pool", 1),  # one connection per channel, so that output never stands before control
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


def mutual(identity: Identity) -> grpc.ChannelCredentials:
    certificate = identity.certificate()
    return grpc.ssl_channel_credentials(
        root_certificates=certificate.ca_pem.encode(),
        private_key=identity.key_pem(),
        certificate_chain=certificate.certificate_pem.encode(),
    )


def fleet(identity: Identity) -> grpc.aio.Channel:
    """Return a fresh connection to the fleet port, by the present certificate."""
    return grpc.aio.secure_channel(identity.machine().fleet, mutual(identity), options=OPTIONS)


def enrolment(address: str, root_pem: bytes) -> grpc.aio.Channel:
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(root_pem), options=OPTIONS)


class Patience:
    """Full jitter from 0.2 s up to 5 s, and up to 30 s once a minute has gone by without success."""

    def __init__(self) -> None:
        self._tries = 0
        self._since: int | None = None

    def next_s(self, boot_ms: int) -> float:
        self._since = boot_ms if self._since is None else self._since
        self._tries += 1
        cap = 5.0 if boot_ms - self._since < 60_000 else 30.0
        return random.uniform(0.02, min(cap, 0.2 * 2 ** min(self._tries, 10)))  # noqa: S311 - not a secret

    def reset(self) -> None:
        self._tries, self._since = 0, None


def raise_descriptor_limit() -> None:
    """At 1,024 descriptors connections hang in silence."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 65_536
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):
        return  # the system's own cap is lower than it says: what there is must do


def stop_if_cancelled() -> None:
    """Raises CancelledError in a task that was told to end: a group whose child failed in the same moment has swallowed it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
