"""Puts one switchboard together and serves it: the only place that knows every part."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from switchboard import parent
from switchboard.clock import Clock, SystemClock
from switchboard.domain.errors import Unavailable
from switchboard.notify.webhook import Webhook
from switchboard.rpc.ca import Authority
from switchboard.rpc.enroll import EnrollServicer
from switchboard.rpc.fleet import FleetServicer
from switchboard.rpc.register import DiskRegister
from switchboard.rpc.server import Ports, serving
from switchboard.rpc.translate import decode_events
from switchboard.services.approvals import Approvals
from switchboard.services.book import Book
from switchboard.services.deadlines import Deadlines
from switchboard.services.fleet import Fleet
from switchboard.services.identity import Identity
from switchboard.services.instructions import Instructions
from switchboard.services.output import Output
from switchboard.services.passwords import Passwords
from switchboard.services.people import People
from switchboard.services.presence import Presence
from switchboard.services.projection import Projection
from switchboard.services.queries import Queries
from switchboard.services.runs import Runs
from switchboard.services.stops import Stops
from switchboard.settings import Address, Settings
from switchboard.store.embedded import Embedded
from switchboard.store.order_journal import FileOrderJournal
from switchboard.store.redis import RedisStore, open_store
from switchboard.web.api import create_api
from switchboard.web.parts import Services
from switchboard.web.server import Server
from switchboard.web.settings import WebSettings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """One replica without its ports: every use case over one store."""

    services: Services
    fleet: Fleet
    deadlines: Deadlines
    authority: Authority
    clock: Clock

    @asynccontextmanager
    async def dialled(self, fleet: Address, enroll: Address, grace: float = 1.0) -> AsyncIterator[Ports]:
        """Serve the machines while the block runs. Raises Unavailable for an address that cannot be had."""
        it = self.services
        servicer = FleetServicer(
            fleet=self.fleet,
            stops=it.stops,
            output=it.output,
            queries=it.queries,
            identity=it.identity,
            authority=self.authority,
            clock=self.clock,
        )
        async with serving(
            fleet=fleet,
            enroll=enroll,
            servicer=servicer,
            identity=it.identity,
            enrolment=EnrollServicer(it.identity, self.authority, self.clock),
            authority=self.authority,
            grace=grace,
        ) as ports:
            yield ports


def compose(
    store: RedisStore,
    projection: Projection,
    settings: Settings,
    *,
    clock: Clock,
    base_url: str,
    webhook: Webhook | None = None,
    passwords: Passwords | None = None,
) -> Core:
    """Return the use cases over *store*, with this replica's own disk in the data directory."""
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    audit, epochs = store.audit, store.epochs
    authority = Authority(settings.data / "ca", clock)
    run_book, machine_book = Book(store.runs, projection), Book(store.machines, projection)
    people = People(
        people=Book(store.people, projection),
        sessions=store.sessions,
        links=store.links,
        tokens=store.tokens,
        projection=projection,
        audit=audit,
        clock=clock,
        base_url=base_url,
        passwords=passwords,
    )
    presence = Presence(machines=machine_book, projection=projection, clock=clock, away_after=settings.presence)
    instructions = Instructions(instructions=Book(store.instructions, projection), projection=projection, clock=clock)
    approvals = Approvals(
        approvals=Book(store.approvals, projection),
        runs=run_book,
        instructions=instructions,
        projection=projection,
        audit=audit,
        clock=clock,
        notifier=webhook,
    )
    stops = Stops(
        orders=Book(store.orders, projection),
        receipts=Book(store.receipts, projection),
        projection=projection,
        presence=presence,
        epochs=epochs,
        journal=FileOrderJournal(settings.data / "orders.jsonl"),
        audit=audit,
        clock=clock,
        seal=authority.seal,
    )
    output = Output(store.output, run_book, decode_events)
    runs = Runs(
        runs=run_book,
        instructions=instructions,
        approvals=approvals,
        stops=stops,
        output=output,
        presence=presence,
        projection=projection,
        audit=audit,
        clock=clock,
    )
    identity = Identity(
        machines=machine_book,
        join_tokens=store.join_tokens,
        projection=projection,
        issuer=authority,
        register=DiskRegister(settings.data / "ca" / "register.jsonl"),
        audit=audit,
        clock=clock,
    )
    fleet = Fleet(
        machines=machine_book,
        identity=identity,
        presence=presence,
        runs=runs,
        approvals=approvals,
        stops=stops,
        instructions=instructions,
        output=output,
        epochs=epochs,
        projection=projection,
        audit=audit,
        clock=clock,
        heartbeat=settings.heartbeat,
        solo=people.solo,
    )
    deadlines = Deadlines(
        fleet=fleet,
        presence=presence,
        instructions=instructions,
        approvals=approvals,
        stops=stops,
        runs=runs,
        projection=projection,
        audit=audit,
        retention=settings.retention,
    )
    services = Services(
        people=people,
        runs=runs,
        approvals=approvals,
        stops=stops,
        output=output,
        queries=Queries(instructions=instructions, presence=presence, projection=projection),
        identity=identity,
        instructions=instructions,
        presence=presence,
        projection=projection,
        audit=audit,
        clock=clock,
        enroll=settings.dialled(settings.enroll, settings.enroll[1]),
        fleet=settings.dialled(settings.grpc, settings.grpc[1]),
    )
    return Core(services=services, fleet=fleet, deadlines=deadlines, authority=authority, clock=clock)


async def serve(settings: Settings, parent_fd: int | None = None) -> None:
    """Serve until a signal, or until the parent on *parent_fd* hangs up. Raises Unavailable, Conflict, Invalid before it serves."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ending.set)
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        listening = _listen(settings.http)
        stack.callback(listening.close)
        web = WebSettings.of(settings, listening.getsockname()[1])
        webhook = Webhook(settings.webhook, base_url=web.base_url) if settings.webhook else None
        embedded = None if settings.redis_url else await stack.enter_async_context(Embedded(settings.data))
        url = embedded.url if embedded else settings.redis_url or ""
        store = await stack.enter_async_context(open_store(url, clock=clock, output_batches=settings.output_batches))
        projection = await stack.enter_async_context(Projection(store.projected, store.changes, store.epochs))
        core = compose(store, projection, settings, clock=clock, base_url=web.base_url, webhook=webhook)
        it = core.services
        await it.stops.refresh()
        person = await it.people.ensure_first(settings.person)
        ports = await stack.enter_async_context(core.dialled(settings.grpc, settings.enroll))
        it = replace(
            it,
            enroll=settings.dialled(settings.enroll, ports.enroll),
            fleet=settings.dialled(settings.grpc, ports.fleet),
        )
        server = Server(create_api(services=it, settings=web), web, cert=settings.tls_cert, key=settings.tls_key)

        def ready() -> Mapping[str, Any]:
            return {
                "valkey": embedded.pid if embedded else None,
                "http": web.base_url,
                "grpc": f"{settings.grpc[0]}:{ports.fleet}",
                "enroll": f"{settings.enroll[0]}:{ports.enroll}",
            }

        known = parent.operations(
            people=it.people, identity=it.identity, projection=projection, person=person, ready=ready
        )
        async with asyncio.TaskGroup() as tasks:
            eternal = [tasks.create_task(core.deadlines.run(), name="deadlines")]
            if embedded:
                eternal.append(tasks.create_task(embedded.keep(), name="embedded store"))
            if webhook:
                eternal.append(tasks.create_task(webhook.run(it.approvals.telling), name="webhook"))
            if parent_fd is not None:
                eternal.append(tasks.create_task(_attend(parent_fd, known, ending), name="parent"))
            serving_web = tasks.create_task(server.serve(sockets=[listening]), name="web")
            log.info("serving", **ready())
            await ending.wait()
            it.output.close()
            server.stop()
            await serving_web
            for task in eternal:
                task.cancel()


async def _attend(fd: int, known: Mapping[str, parent.Operation], ending: asyncio.Event) -> None:
    await parent.attend(fd, known)
    ending.set()


def _listen(address: Address) -> socket.socket:
    """Return a listening socket, so that a taken port is one sentence before anything else has started. Raises Unavailable."""
    host, port = address
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(2048)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise Unavailable(f"{host}:{port} cannot be listened on ({why}): choose another --http") from error
    return listening
