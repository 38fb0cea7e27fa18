"""The output of runs: one stream per run, one entry per batch, each event in it exactly once."""

from collections.abc import Sequence

from switchboard import faults
from switchboard.domain.errors import Invalid
from switchboard.domain.output import Appended
from switchboard.services.ports import Batch
from switchboard.store.client import Client, InDoubt
from switchboard.store.keys import Keys

BATCHES = 20_000  # held per run; older ranges come from the machine's spool
LARGEST = 2**53  # what a Lua number counts exactly
PAGE = 50  # batches, which may be large, in one answer


class RedisOutput:
    def __init__(self, client: Client, keys: Keys, *, batches: int = BATCHES) -> None:
        self._client = client
        self._keys = keys
        self._batches = batches

    async def append(self, run: str, first: int, count: int, events: bytes) -> Appended:
        if first < 1 or count < 1 or first + count >= LARGEST:
            raise Invalid("first", f"a batch of {count} events from {first} on is no batch: seqs count from 1")
        keys, arguments = self._both(run), (first, count, events, self._batches)
        doubt = False
        try:
            next, taken = await self._client.function("output_append", keys, *arguments, again=False)
        except InDoubt:
            doubt = True
            next, taken = await self._client.function("output_append", keys, *arguments, again=False)
        if doubt and int(next) == first + count:
            taken = 1  # the reply was lost, not the batch
        if taken:
            faults.point("store.output.appended")
        return Appended(next=int(next), taken=bool(taken))

    async def next(self, run: str) -> int:
        # The function, not a plain GET: it finds the place again when only the stream is left.
        return int(await self._client.function("output_skip", self._both(run), 0, again=True))

    async def nexts(self, runs: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for start in range(0, len(runs), 1000):
            some = runs[start : start + 1000]
            values = await self._client.calls([("GET", self._keys.next(run)) for run in some], again=True)
            found |= {run: int(value) for run, value in zip(some, values, strict=True) if value is not None}
        for run in runs:
            if run not in found:
                found[run] = await self.next(run)
        return found

    async def skip(self, run: str, first: int) -> int:
        return int(await self._client.function("output_skip", self._both(run), first, again=True))

    async def read(self, run: str, first: int, limit: int) -> list[Batch]:
        """Batches that hold events from *first* on: at least *limit* events, or all that there are."""
        batches: list[Batch] = []
        start, held = f"{max(first, 1)}-0", 0
        while held < limit:
            command = ("XRANGE", self._keys.output(run), start, "+", "COUNT", min(PAGE, limit - held))
            entries = await self._client.call(*command, again=True)
            for id, fields in entries:
                if held >= limit:
                    break
                last, count = (int(part) for part in id.split(b"-"))
                batches.append(Batch(last - count + 1, count, fields[1]))
                held += min(count, last - first + 1)
            if not entries:
                break
            start = "(" + entries[-1][0].decode()
        return batches

    async def low(self, run: str) -> int:
        first = await self._client.call("XRANGE", self._keys.output(run), "-", "+", "COUNT", 1, again=True)
        if not first:
            return await self.next(run)
        last, count = (int(part) for part in first[0][0].split(b"-"))
        return last - count + 1

    async def purge(self, run: str) -> None:
        await self._client.call("DEL", *self._both(run), again=True)

    def _both(self, run: str) -> list[str]:
        return [self._keys.output(run), self._keys.next(run)]
