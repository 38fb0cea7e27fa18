"""The store's own identity and counters."""

import secrets

from switchboard.clock import Clock
from switchboard.store.client import Client
from switchboard.store.keys import Keys


class RedisEpochs:
    def __init__(self, client: Client, keys: Keys, clock: Clock) -> None:
        self._client = client
        self._keys = keys
        self._clock = clock

    async def epoch(self) -> str:
        made = secrets.token_hex(8)
        found = await self._client.call("SET", self._keys.epoch, made, "NX", "GET", again=True)
        return str(found.decode()) if found is not None else made

    async def generation(self) -> int:
        return int(await self._client.call("GET", self._keys.generation, again=True) or 0)

    async def next_generation(self, at_least: int = 0) -> int:
        return await self._count(self._keys.generation, at_least)

    async def next_connection(self, machine: str) -> int:
        # From the clock on, so that a store which came back empty does not fence the newest connection with a low number.
        return await self._count(self._keys.connection(machine), int(self._clock.now().timestamp() * 1_000_000))

    async def _count(self, key: str, floor: int) -> int:
        # Sent twice it skips a number, which is no harm: numbers only need to rise.
        return int(await self._client.function("counter_next", [key], floor, again=True))
