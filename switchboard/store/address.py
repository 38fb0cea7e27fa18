"""Where the store is: a unix socket, a URL (TLS too), or the primary that Sentinels name."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from switchboard.domain.errors import Invalid

SCHEMES = ("unix", "redis", "rediss", "redis+sentinel", "rediss+sentinel")
LOOPBACK = ("localhost", "::1")


@dataclass(frozen=True, slots=True)
class Address:
    url: str

    def __post_init__(self) -> None:
        if self.url.startswith("/"):
            object.__setattr__(self, "url", f"unix://{quote(self.url)}")
        try:
            parts = urlsplit(self.url)
            fine = parts.scheme in SCHEMES and (parts.path if parts.scheme == "unix" else parts.netloc)
            if parts.scheme in ("redis", "rediss"):
                _ = parts.port
            if "sentinel" in parts.scheme:
                fine = fine and all(self.sentinels()) and self.service()
        except ValueError:
            fine = False
        if not fine:
            raise Invalid(
                "redis_url",
                f"{self} is no address of a store: use redis://HOST:PORT, rediss://HOST:PORT, unix:///PATH or"
                " redis+sentinel://HOST:PORT,HOST:PORT/NAME",
            )

    def __str__(self) -> str:
        """For people: without the password."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}" if rest else "the given text"

    @property
    def on_this_machine(self) -> bool:
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            return True
        hosts = [host for host, _ in self.sentinels()] if "sentinel" in parts.scheme else [parts.hostname or ""]
        return all(host in LOOPBACK or host.startswith("127.") for host in hosts)

    def without_password(self) -> "Address":
        scheme, _, rest = self.url.partition("://")
        return Address(f"{scheme}://{rest.rpartition('@')[2]}")

    def sentinels(self) -> list[tuple[str, int]]:
        hosts = urlsplit(self.url).netloc.rpartition("@")[2].split(",")
        pairs = [host.rpartition(":") if ":" in host else (host, ":", "26379") for host in hosts]
        return [(host.strip("[]"), int(port)) for host, _, port in pairs if host]

    def service(self) -> str:
        return unquote(urlsplit(self.url).path.strip("/"))

    def pool(self) -> ConnectionPool:
        """Return what makes connections to it; they wait for an answer for as long as their user does."""
        options: dict[str, Any] = {
            "socket_timeout": None,
            "socket_connect_timeout": 2.0,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "protocol": 2,
        }
        parts = urlsplit(self.url)
        if "sentinel" not in parts.scheme:
            try:
                return ConnectionPool.from_url(self.url, **options)
            except (ValueError, TypeError) as error:
                raise Invalid("redis_url", f"{self} is no address of a store: {error}") from error
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.netloc.count("@"):
            name, _, password = parts.netloc.rpartition("@")[0].partition(":")
            options |= {"username": unquote(name) or None, "password": unquote(password) or None}
        asked = {key: value for key, value in options.items() if key not in ("username", "password")}
        asked["socket_timeout"] = 2.0
        if "sentinel_password" in query:
            asked["password"] = query["sentinel_password"]
        sentinel = Sentinel(self.sentinels(), sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
        if parts.scheme.startswith("rediss"):
            options["ssl"] = True
        options["db"] = int(query.get("db", 0))
        return SentinelConnectionPool(self.service(), sentinel, **options)  # type: ignore[no-untyped-call]
