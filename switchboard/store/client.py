"""The one way to the server: an explicit retry policy per kind of call, and every failure as Unavailable.

redis-py's own retries are off everywhere: they send a write again whose reply was cut, and so store it twice.
"""

from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import TimeoutError as TooSlow

from switchboard.domain.errors import Unavailable
from switchboard.store.address import Address
from switchboard.store.keys import LIBRARY

CONNECTIONS = 64
SOCKET_TIMEOUT = 5.0  # a hung server is away after this long


class Client:
    """Commands over a bounded pool. `again=True` says that a command may reach the server twice and mean it once."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._redis = _plain(address.pool(size=CONNECTIONS, timeout=SOCKET_TIMEOUT))

    async def aclose(self) -> None:
        await self._redis.aclose(close_connection_pool=True)

    def alone(self, timeout: float) -> Any:
        """Return a client with one connection of its own, for a call that blocks up to *timeout* seconds."""
        return _plain(self.address.pool(size=1, timeout=timeout + SOCKET_TIMEOUT))

    async def call(self, *command: Any, again: bool) -> Any:
        """Send one command. Raises Unavailable, InDoubt when it may have happened all the same."""
        try:
            return await self._redis.execute_command(*command)
        except (Broken, TooSlow) as error:
            if not again:
                raise InDoubt(self._away(error)) from error
        except RedisError as error:
            raise Unavailable(self._away(error)) from error
        try:
            return await self._redis.execute_command(*command)
        except RedisError as error:
            raise Unavailable(self._away(error)) from error

    async def calls(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send several that may each be sent twice, in one go, and return the answers. Raises Unavailable."""
        for last in (False, True):
            line = self._redis.pipeline(transaction=False)
            for command in commands:
                line.execute_command(*command)
            try:
                answers: list[Any] = await line.execute()
                return answers
            except (Broken, TooSlow) as error:
                if last:
                    raise Unavailable(self._away(error)) from error
            except RedisError as error:
                raise Unavailable(self._away(error)) from error
        raise AssertionError("unreachable")

    async def function(self, name: str, keys: Sequence[str], *args: Any, again: bool) -> Any:
        """Call one of functions.lua, putting the library in place when the server has lost it."""
        command = ("FCALL", f"{LIBRARY}_{name}", len(keys), *keys, *args)
        try:
            return await self.call(*command, again=again)
        except Unavailable as error:
            if not _says(error.__cause__, "Function not found"):
                raise
        await self.load_functions()
        return await self.call(*command, again=again)

    async def load_functions(self) -> None:
        code = resources.files("switchboard.store").joinpath("functions.lua").read_text()
        await self.call("FUNCTION", "LOAD", "REPLACE", code, again=True)

    def _away(self, error: RedisError) -> str:
        if isinstance(error, AuthenticationError):
            return f"the store at {self.address} refused the name or password: check --redis-url"
        if isinstance(error, NoPermissionError):
            return f"the store at {self.address} does not permit what the switchboard needs: {error}"
        if isinstance(error, TooSlow):
            return f"the store is away: {self.address} did not answer in time"
        if isinstance(error, Broken):
            return f"the store is away: {self.address}: {error}"
        return f"the store at {self.address} refused: {error}"


class InDoubt(Unavailable):
    """The link broke after the command may have been carried out."""


def _plain(pool: ConnectionPool) -> Any:
    """Return a client that hands answers on as the server gave them. Any, because redis-py's annotations are partial."""
    client = Redis(connection_pool=pool)
    client.response_callbacks.clear()
    return client


def _says(error: BaseException | None, text: str) -> bool:
    return isinstance(error, ResponseError) and text in str(error)
