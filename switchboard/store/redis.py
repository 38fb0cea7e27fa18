"""The store, put together: every port of the services over one server."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar

from switchboard.clock import Clock, SystemClock
from switchboard.domain.approval import Approval
from switchboard.domain.errors import Unavailable
from switchboard.domain.instruction import Instruction
from switchboard.domain.machine import JoinToken, Machine
from switchboard.domain.people import Link, Person, Session, Token
from switchboard.domain.run import Run
from switchboard.domain.stop import Order, Receipt
from switchboard.store.address import Address
from switchboard.store.audit import RedisAudit
from switchboard.store.changes import Publisher, RedisChanges
from switchboard.store.client import Client
from switchboard.store.epochs import RedisEpochs
from switchboard.store.keys import Keys
from switchboard.store.outputs import BATCHES, RedisOutput
from switchboard.store.records import RedisRecords
from switchboard.store.server import check

T = TypeVar("T")
PATIENCE = 10.0  # seconds that a start waits for a server which is not there yet


class RedisStore:
    """Made by `open_store`. `projected` are the nouns that a projection keeps in memory."""

    def __init__(self, client: Client, bulk: Client, keys: Keys, clock: Clock, output_batches: int) -> None:
        self.client = client
        self.publisher = Publisher(client, keys)

        def kept(noun: str, kind: type[T]) -> RedisRecords[T]:
            return RedisRecords(noun, kind, client=client, keys=keys, clock=clock, publisher=self.publisher)

        def passing(noun: str, kind: type[T]) -> RedisRecords[T]:
            def until(value: Any) -> datetime:
                return value.until  # type: ignore[no-any-return]

            rest: dict[str, Any] = {"client": client, "keys": keys, "clock": clock, "publisher": self.publisher}
            return RedisRecords(noun, kind, published=False, until=until, **rest)

        self.runs = kept("run", Run)
        self.approvals = kept("approval", Approval)
        self.orders = kept("order", Order)
        self.receipts = kept("receipt", Receipt)
        self.machines = kept("machine", Machine)
        self.instructions = kept("instruction", Instruction)
        self.people = kept("person", Person)
        self.sessions = passing("session", Session)
        self.links = passing("link", Link)
        self.tokens = passing("token", Token)
        self.join_tokens = passing("join_token", JoinToken)
        self.changes = RedisChanges(client, keys)
        # On connections of its own, so that control never queues behind output.
        self.output = RedisOutput(bulk, keys, batches=output_batches)
        self.epochs = RedisEpochs(client, keys, clock)
        self.audit = RedisAudit(client, keys, clock)

    @property
    def projected(self) -> Mapping[str, RedisRecords[Any]]:
        kept: tuple[RedisRecords[Any], ...] = (
            self.runs,
            self.approvals,
            self.orders,
            self.receipts,
            self.machines,
            self.instructions,
            self.people,
        )
        return {records.noun: records for records in kept}


@asynccontextmanager
async def open_store(
    url: str,
    *,
    clock: Clock | None = None,
    prefix: str = "sb:",
    output_batches: int = BATCHES,
    patience: float = PATIENCE,
) -> AsyncIterator[RedisStore]:
    """Connect, check the server, put the functions in place, and publish changes while the store is open.

    Raises Invalid for an address or a server that will not do, Unavailable when there is none within *patience* seconds.
    """
    client, bulk = Client(Address(url)), Client(Address(url))
    store = RedisStore(client, bulk, Keys(prefix), clock or SystemClock(), output_batches)
    try:
        await _ready(client, patience)
        publishing = asyncio.create_task(store.publisher.run(), name="wake-ups")
        try:
            yield store
        finally:
            try:
                async with asyncio.timeout(2):
                    await store.publisher.settled()
            except TimeoutError:
                pass  # the store is away: the others re-read
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
    finally:
        await client.aclose()
        await bulk.aclose()


async def _ready(client: Client, patience: float) -> None:
    until = time.monotonic() + patience
    while True:
        try:
            await check(client)
            await client.load_functions()
            return
        except Unavailable:
            if time.monotonic() >= until:
                raise
        await asyncio.sleep(0.2)
