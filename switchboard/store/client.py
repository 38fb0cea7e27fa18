"""The one way to the server: an explicit retry policy per kind of call, and every failure as Unavailable.

redis-py's own retries are off everywhere: they send a write again whose reply was cut, and so store it twice.
"""

from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import TimeoutError as TooSlow

from switchboard.domain.errors import Unavailable
from switchboard.store.address import Address
from switchboard.store.keys import LIBRARY
from switchboard.store.lines import Lines

TIMEOUT = 5.0  # a hung server is away after this long


class Client:
    """Commands over a few lines. `again=True`: a command may reach the server twice and mean it once, so a broken link is no end.

    A server that does not answer in time is never asked twice: the caller would wait twice as long.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._lines = Lines(address.pool(), TIMEOUT)

    async def aclose(self) -> None:
        await self._lines.aclose()

    def alone(self, timeout: float) -> Lines:
        """Return a line of its own, for calls that block up to *timeout* seconds; the caller closes it."""
        return Lines(self.address.pool(), timeout + TIMEOUT)

    async def call(self, *command: Any, again: bool) -> Any:
        """Send one command. Raises Unavailable, InDoubt when the link broke and it may have happened all the same."""
        return (await self.calls([command], again=again))[0]

    async def calls(self, commands: Sequence[tuple[Any, ...]], *, again: bool) -> list[Any]:
        """As `call`, for several in their order."""
        for last in (False, True) if again else (True,):
            try:
                return await self._lines.send(*commands)
            except Broken as error:
                if last:
                    raise (Unavailable if again else InDoubt)(self._away(error)) from error
            except RedisError as error:
                raise Unavailable(self._away(error)) from error
        raise AssertionError("unreachable")

    async def function(self, name: str, keys: Sequence[str], *args: Any, again: bool) -> Any:
        """Call one of functions.lua, putting the library in place when the server has lost it."""
        return (await self.functions([], name, keys, *args, again=again))[-1]

    async def functions(
        self, before: Sequence[tuple[Any, ...]], name: str, keys: Sequence[str], *args: Any, again: bool
    ) -> list[Any]:
        """As `function`, right after the commands in *before*, which may be sent twice."""
        commands = [*before, ("FCALL", f"{LIBRARY}_{name}", len(keys), *keys, *args)]
        try:
            return await self.calls(commands, again=again)
        except Unavailable as error:
            if not _says(error.__cause__, "Function not found"):
                raise
        await self.load_functions()
        return await self.calls(commands, again=again)

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


def _says(error: BaseException | None, text: str) -> bool:
    return isinstance(error, ResponseError) and text in str(error)
