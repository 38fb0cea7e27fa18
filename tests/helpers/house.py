"""A whole switchboard in this process: the real store, real gRPC and HTTP ports, bare machines, and people who have signed in."""

import asyncio
import base64
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from argon2 import PasswordHasher
from fastapi import FastAPI
from helpers.eventually import eventually
from helpers.fleet import BareMachine
from helpers.valkey import ManualClock

from switchboard.app import Core, compose
from switchboard.domain.people import Caller, Permission, Role
from switchboard.notify.webhook import Webhook
from switchboard.rpc.server import Ports
from switchboard.services.passwords import Passwords
from switchboard.services.people import SignedIn
from switchboard.services.projection import Projection
from switchboard.settings import Settings
from switchboard.store.redis import RedisStore, open_store
from switchboard.web.api import create_api
from switchboard.web.parts import Services
from switchboard.web.server import Server
from switchboard.web.settings import WebSettings

PASSWORD = "correct horse battery"


def quick() -> Passwords:
    """Real argon2, as light as it goes: a test signs in a hundred times."""
    return Passwords(PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1))


@dataclass(slots=True, kw_only=True)
class House:
    core: Core
    store: RedisStore
    clock: ManualClock
    api: FastAPI
    web: WebSettings
    ports: Ports
    server: Server
    _open: AsyncExitStack
    _clients: list[httpx.AsyncClient] = field(default_factory=list)

    @property
    def services(self) -> Services:
        return self.core.services

    @property
    def url(self) -> str:
        return f"{self.web.scheme}://127.0.0.1:{self.web.port}"

    async def ana(self) -> Caller:
        """The admin who was first."""
        return await self.services.people.caller_named("ana", via="session")

    async def admit(self, id: str, role: Role) -> None:
        _, link = await self.services.people.invite(await self.ana(), id, id.title(), role)
        await self.services.people.use_link(link.partition("#")[2], PASSWORD)

    async def machine(self, name: str = "mill") -> BareMachine:
        token, _ = await self.services.identity.invite(await self.ana(), name)
        machine = BareMachine(self.ports, name)
        await machine.enrol(token)
        return machine

    def nobody(self, *, verify: Any = True, **headers: str) -> httpx.AsyncClient:
        client = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, trust_env=False, verify=verify)
        self._clients.append(client)
        return client

    async def browser(self, person: str) -> httpx.AsyncClient:
        """A client that carries what a browser on our page carries, after a real sign-in."""
        client = self.nobody(origin=self.url, **{"sec-fetch-site": "same-origin"})
        answer = await client.post("/api/v1/session", json={"person": person, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        about = answer.json()
        client.headers.update({"x-csrf-token": about["csrf"], "x-page-secret": about["page_secret"]})
        return client

    def with_password(self, person: str, password: str = PASSWORD) -> httpx.AsyncClient:
        """What the command line sends with a vote."""
        proof = base64.b64encode(f"{person}:{password}".encode()).decode()
        return self.nobody(authorization=f"Basic {proof}")

    async def with_token(
        self, person: str, permits: set[Any], *, machine: str = "", days: float = 1
    ) -> httpx.AsyncClient:
        caller = await self.services.people.caller_named(person, via="session")
        text, _ = await self.services.people.tokens.mint(
            caller, name="test", permits={Permission(p) for p in permits}, days=days, machine=machine
        )
        return self.nobody(authorization=f"Bearer {text}")

    async def signed_in(self, person: str) -> SignedIn:
        return await self.services.people.sign_in(person, PASSWORD, address="127.0.0.1")

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()


@asynccontextmanager
async def house(
    store_url: str,
    *,
    data: Path | None = None,
    clock: ManualClock | None = None,
    webhook: str | None = None,
    passwords: Passwords | None = None,
    tls: tuple[Path, Path] | None = None,
    **web: Any,
) -> AsyncIterator[House]:
    """Serve a switchboard whose first person is ana, with a password, on free loopback ports."""
    clock = clock or ManualClock()
    async with AsyncExitStack() as stack:
        folder = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sbh-")))
        settings = Settings(data=folder, enroll=("127.0.0.1", 7802))
        listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        stack.callback(listening.close)
        settings = replace(settings, http=("127.0.0.1", listening.getsockname()[1]))
        edge = replace(WebSettings.of(settings), tls=tls is not None, **web)
        told = Webhook(webhook, base_url=edge.base_url, patience_s=0.05) if webhook else None
        store = await stack.enter_async_context(open_store(store_url, clock=clock))
        projection = await stack.enter_async_context(Projection(store.projected, store.changes, store.epochs))
        core = compose(
            store,
            projection,
            settings,
            clock=clock,
            base_url=edge.base_url,
            webhook=told,
            passwords=passwords or quick(),
        )
        await core.services.stops.refresh()
        people = core.services.people
        await people.ensure_first("ana")
        await people.use_link((await people.first_link("ana")).partition("#")[2], PASSWORD)
        ports = await stack.enter_async_context(core.dialled(("127.0.0.1", 0), ("127.0.0.1", 0), grace=0.1))
        api = create_api(services=core.services, settings=edge)
        server = Server(api, edge, cert=tls[0] if tls else None, key=tls[1] if tls else None)
        made = House(core=core, store=store, clock=clock, api=api, web=edge, ports=ports, server=server, _open=stack)
        tasks = [
            asyncio.create_task(core.deadlines.run(), name="deadlines"),
            asyncio.create_task(server.serve(sockets=[listening]), name="web"),
            *([asyncio.create_task(told.run(core.services.approvals.telling), name="webhook")] if told else []),
        ]
        try:
            await eventually(lambda: server.started)
            yield made
        finally:
            await made.close()
            core.services.output.close()
            server.stop()
            await tasks[1]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
