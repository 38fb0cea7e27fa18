"""Valkey servers on loopback ports, for what needs TCP: passwords, replicas, Sentinels."""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from switchboard.store.embedded import find_binary


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def answers(port: int) -> bool:
    link = Redis(port=port, retry=Retry(NoBackoff(), 0), socket_timeout=1)
    try:
        await link.ping()
    except AuthenticationError:
        return True
    except (RedisError, OSError):
        return False
    finally:
        with contextlib.suppress(RedisError):
            await link.aclose()
    return True


@asynccontextmanager
async def tcp_valkey(
    folder: Path, *options: str, sentinel: str = ""
) -> AsyncIterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run one with *options* on a free port; *sentinel* is the text of a Sentinel's configuration."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "valkey.conf"
    file.write_text(f"port {port}\nbind 127.0.0.1\ndir {folder}\n{sentinel}\n")
    command = [str(find_binary()), str(file), *(["--sentinel"] if sentinel else ["--save", ""]), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not await answers(port):
                assert process.poll() is None, f"valkey ended: {' '.join(command)}"
                await asyncio.sleep(0.02)
            yield port, process
        finally:
            process.kill()
