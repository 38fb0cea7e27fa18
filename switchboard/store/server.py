"""What a server must be before anything is trusted to it: new enough, closed to strangers, and not one that forgets."""

import structlog
from redis.exceptions import RedisError

from switchboard.domain.errors import Invalid
from switchboard.store.client import Client
from switchboard.store.lines import Lines

REDIS, VALKEY = (7, 2), (8, 0)
log = structlog.get_logger()


async def check(client: Client) -> None:
    """Raises Invalid with the one thing that is wrong, Unavailable when nobody answers; warns of what may lose data."""
    about = _fields(await client.call("INFO", "everything", again=True))
    name, version = (
        ("Valkey", about["valkey_version"]) if "valkey_version" in about else ("Redis", about.get("redis_version", "0"))
    )
    least = VALKEY if name == "Valkey" else REDIS
    numbers = tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2])
    if numbers < least:
        wanted = ".".join(str(n) for n in least)
        raise Invalid(
            "redis_url", f"{client.address} is {name} {version}: the switchboard needs {name} {wanted} or later"
        )
    if about.get("cluster_enabled") == "1":
        raise Invalid("redis_url", f"{client.address} is a cluster: name a single server or its Sentinels")
    if about.get("role", "master") not in ("master", "primary"):
        raise Invalid("redis_url", f"{client.address} is a replica: name the primary, or the Sentinels that know it")
    if not client.address.on_this_machine and await _open(client):
        raise Invalid(
            "redis_url",
            f"{client.address} lets anybody in: give it a password (requirepass, or ACL users with the default one off)",
        )
    policy = about.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        log.warning("the store may drop records when it is full: set maxmemory-policy noeviction", policy=policy)
    if about.get("aof_enabled") == "0":
        log.warning("the store keeps no append-only file, so a crash loses what it acknowledged: set appendonly yes")


async def _open(client: Client) -> bool:
    """Whether the server answers somebody who has no password."""
    stranger = Lines(client.address.without_password().pool(), 5.0)
    try:
        await stranger.send(("PING",))
    except RedisError:
        return False
    finally:
        await stranger.aclose()
    return True


def _fields(info: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
