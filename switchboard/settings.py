"""What one switchboard is told at its start: read once at the command line, frozen, and handed down."""

import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

Address = tuple[str, int]

# All below 32768, so that no outgoing connection of this machine can be sitting on them.
HTTP_PORT, GRPC_PORT, ENROLL_PORT = 7800, 7801, 7802


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data: Path
    http: Address = ("127.0.0.1", HTTP_PORT)
    grpc: Address = ("127.0.0.1", GRPC_PORT)
    enroll: Address = ("127.0.0.1", ENROLL_PORT)
    redis_url: str | None = None  # None: the embedded Valkey in the data directory
    tls_cert: Path | None = None
    tls_key: Path | None = None
    public_url: str | None = (
        None  # what people type; behind a reverse proxy its scheme and host are the ones that count
    )
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    webhook: str | None = None  # told that something waits; never what
    person: str = "admin"  # the first person of an empty team
    heartbeat: timedelta = timedelta(seconds=5)
    presence: timedelta = timedelta(seconds=15)  # silent for so long: away
    retention: timedelta = timedelta(days=7)  # of ended runs and their output
    output_batches: int = 20_000  # per run, held in the store; older ranges come from the machine
    extra_hosts: tuple[str, ...] = ()  # further Host names that are answered

    def dialled(self, address: Address, port: int) -> str:
        """Return HOST:PORT at which another machine finds *address*, bound to *port*: a wildcard is no name to dial."""
        host = address[0]
        if host in ("0.0.0.0", "::", ""):  # noqa: S104  compared with, never bound to
            host = urlsplit(self.public_url or "").hostname or socket.gethostname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
