"""A real Valkey for the tests: one a session on a unix socket, emptied for each test, or one of a test's own to kill."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from switchboard.store.embedded import Embedded
from switchboard.store.redis import RedisStore, open_store


class ManualClock:
    """Real time until it is set or moved."""

    def __init__(self, at: datetime | None = None) -> None:
        self._at = at
        self._offset = timedelta()

    def now(self) -> datetime:
        return (self._at or datetime.now(UTC)) + self._offset

    def set(self, at: datetime) -> None:
        self._at, self._offset = at, timedelta()

    def forward(self, by: timedelta) -> None:
        self._offset += by


class OwnValkey:
    """A server of one test's own, which it may kill, stop and start again over the same data."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.embedded = Embedded(data)

    @property
    def url(self) -> str:
        return self.embedded.url

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self.embedded.pid is not None
        os.kill(self.embedded.pid, signal.SIGKILL)
        await self.embedded.stop()

    async def restart(self) -> None:
        await self.embedded.start()

    async def kill_and_restart(self) -> None:
        await self.kill()
        await self.restart()

    def freeze(self) -> None:
        assert self.embedded.pid is not None
        os.kill(self.embedded.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.embedded.pid is not None
        os.kill(self.embedded.pid, signal.SIGCONT)


@asynccontextmanager
async def own_valkey() -> AsyncIterator[OwnValkey]:
    """A fresh server in a folder whose path is short enough for a socket."""
    data = Path(tempfile.mkdtemp(prefix="sbv-"))
    own = OwnValkey(data)
    try:
        await own.embedded.start()
        yield own
    finally:
        await own.embedded.stop()
        shutil.rmtree(data, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URL of the session's server; not emptied."""
    data = Path(tempfile.mkdtemp(prefix="sbv-"))
    embedded = Embedded(data)
    asyncio.run(embedded.start())
    yield embedded.url
    asyncio.run(embedded.stop())
    shutil.rmtree(data, ignore_errors=True)


@pytest.fixture
def store_url(valkey: str) -> str:
    """The URL of the session's server, empty at the start of the test."""
    with redis.Redis.from_url(valkey) as link:
        link.flushall()
    return valkey


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[RedisStore]:
    """An open store over the emptied server."""
    async with open_store(store_url) as opened:
        yield opened
