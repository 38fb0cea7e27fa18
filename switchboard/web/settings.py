"""What the web edge is told at its start, and the names that it answers to because of it."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from switchboard.settings import Settings

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104  compared with, never bound to
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    host: str = "127.0.0.1"
    port: int
    tls: bool = False
    public_url: str | None = None
    extra_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    webhook: str | None = None
    heartbeat_s: float = 15.0  # of event streams, which also say no more when their caller was shut out

    @classmethod
    def of(cls, settings: Settings, port: int | None = None) -> "WebSettings":
        """Return the web's part of *settings*; *port* is the one really bound, where 0 was asked for."""
        return cls(
            host=settings.http[0],
            port=port or settings.http[1],
            tls=settings.tls_cert is not None,
            public_url=settings.public_url,
            extra_hosts=settings.extra_hosts,
            trusted_proxies=settings.trusted_proxies,
            webhook=settings.webhook,
        )

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def base_url(self) -> str:
        """Where people find the page."""
        if self.public_url:
            return self.public_url.rstrip("/")
        host = LOOPBACK[0] if self.host in WILDCARDS else bracketed(self.host)
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def secure(self) -> bool:
        return self.base_url.startswith("https://")

    @property
    def cookie(self) -> str:
        """The session cookie's name. Cookies ignore ports, so without TLS the name holds it: two switchboards share a host."""
        return "__Host-switchboard" if self.secure else f"switchboard-{self.port}"

    @property
    def hosts(self) -> frozenset[str]:
        """Every Host header that is answered; any other name may be somebody's DNS rebinding."""
        public = _authorities(self.public_url) if self.public_url else set()
        return frozenset(self._local | {name.lower() for name in self.extra_hosts} | public)

    @property
    def origins(self) -> frozenset[str]:
        """Every Origin that is one of our own pages."""
        found = {f"{self.scheme}://{host}" for host in self._local}
        if self.public_url:
            found |= {f"{urlsplit(self.public_url).scheme}://{host}" for host in _authorities(self.public_url)}
        # What a further name is reached by, the page's own address says: behind a proxy that is the proxy's scheme.
        return frozenset(found | {f"{urlsplit(self.base_url).scheme}://{name.lower()}" for name in self.extra_hosts})

    @property
    def _local(self) -> set[str]:
        names = {*LOOPBACK, bracketed(self.host)} - {bracketed(name) for name in WILDCARDS}
        default = DEFAULT_PORTS[self.scheme] == self.port
        return {f"{name}:{self.port}" for name in names} | (names if default else set())

    def answers(self, host: str) -> bool:
        """Say whether a request with this Host header is meant for us."""
        host = host.lower()
        if host in self.hosts:
            return True
        # Bound to every address: an address cannot be rebound, only a name can.
        name, _, port = host.rpartition(":")
        return self.host in WILDCARDS and port == str(self.port) and _is_address(name)

    def ours(self, origin: str) -> bool:
        """Say whether a request with this Origin header comes from one of our own pages."""
        scheme, _, host = origin.lower().partition("://")
        return origin.lower() in self.origins or (
            scheme == self.scheme and host not in self.hosts and self.answers(host)
        )


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host.lower()


def _authorities(url: str) -> set[str]:
    parts = urlsplit(url)
    name = bracketed(parts.hostname or "")
    port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    return {f"{name}:{port}", name} if port == DEFAULT_PORTS.get(parts.scheme) else {f"{name}:{port}"}


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
