"""A whole switchboard for measuring: embedded store with every write fsynced, machines' ports with mutual TLS, the web server."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from daemon.identity import Certificate, Identity, Machine
from switchboard.app import Core, compose
from switchboard.clock import SystemClock
from switchboard.domain.people import Caller
from switchboard.rpc.server import Ports
from switchboard.services.projection import Projection
from switchboard.settings import Settings
from switchboard.store.embedded import Embedded
from switchboard.store.redis import RedisStore, open_store
from switchboard.web.api import create_api
from switchboard.web.server import Server
from switchboard.web.settings import WebSettings


def quiet() -> None:
    """Say nothing of what goes well: the table is what people read."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    core: Core
    store: RedisStore
    ports: Ports
    web: WebSettings
    owner: Caller

    async def enrol(self, home: Path, name: str) -> None:
        """Make *home* the folder of a machine that has joined."""
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity = Identity(home)
        token, _ = await self.core.services.identity.invite(self.owner, name)
        machine, pem = await self.core.services.identity.enrol(token, identity.request(name), name, "bench")
        here = f"127.0.0.1:{self.ports.fleet}"
        identity.put_machine(Machine(id=machine.id, name=name, fleet=here, enroll=here))
        identity.put_root(self.core.authority.ca_pem)
        identity.put_certificate(
            Certificate(
                certificate_pem=pem,
                ca_pem=self.core.authority.ca_pem.decode(),
                life_s=86_400,
                generation=1,
                received_boot_ms=0,
                boot="bench",
            )
        )


@contextlib.asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    settings = Settings(data=folder, http=("127.0.0.1", 0), grpc=("127.0.0.1", 0), enroll=("127.0.0.1", 0))
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        embedded = await stack.enter_async_context(Embedded(folder))
        store = await stack.enter_async_context(open_store(embedded.url, clock=clock))
        projection = await stack.enter_async_context(Projection(store.projected, store.changes, store.epochs))
        listening = _listen()
        web = WebSettings(port=listening.getsockname()[1])
        core = compose(store, projection, settings, clock=clock, base_url=web.base_url)
        await core.services.stops.refresh()
        person = await core.services.people.ensure_first("ana")
        owner = await core.services.people.caller_named(person.id, via="system")
        ports = await stack.enter_async_context(core.dialled(settings.grpc, settings.enroll))
        server = Server(create_api(services=core.services, settings=web), web)
        tasks = [
            asyncio.create_task(core.deadlines.run(), name="deadlines"),
            asyncio.create_task(server.serve(sockets=[listening]), name="web"),
        ]
        try:
            yield House(core=core, store=store, ports=ports, web=web, owner=owner)
        finally:
            core.services.output.close()
            server.stop()
            await tasks[1]
            tasks[0].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _listen() -> socket.socket:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(2048)
    return listening
