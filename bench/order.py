"""Figure (a): from a stop order to the last of 1,000 attached daemons, with the order fsynced on each one's disk and all acks back.

The daemons are real ones (journal, link, orders) in two other processes. The floor is bare grpc.aio: the same bytes, the same
mutual TLS, one fsynced write to the store before the first send, one fsynced append per daemon, one ack each.
"""

import asyncio
import contextlib
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from pathlib import Path

import grpc
import uvloop

from bench.figure import Figure
from bench.house import House, house, quiet
from daemon import settings as daemon_settings
from daemon.app import put_together
from daemon.identity import Identity
from daemon.link import channels
from switchboard.domain.stop import Selector
from switchboard.rpc.server import HERD, KEEPALIVE, raise_file_limit
from switchboard.services.presence import ORDERS_WRITTEN_AFTER, WRITTEN_AT_ONCE

DAEMONS, PROCESSES, ROUNDS, TARGET = 1000, 2, 7, 2.0
METHOD = "/bench.Floor/Attach"


async def measure() -> list[Figure]:
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="swb") as folder:
        async with house(Path(folder, "server")) as built:
            homes = [Path(folder, f"d{number}") for number in range(DAEMONS)]
            for home in homes:
                await built.enrol(home, home.name)
            ours: list[float] = []
            bare: list[float] = []
            async with peers("daemons", homes, 0):
                await _attached(built)
                ours += [await _order(built) for _ in range(ROUNDS)]
            async with _floor(built) as floor, peers("floor", homes, floor.port):
                await floor.full.wait()
                bare += [await floor.broadcast() for _ in range(ROUNDS)]
    # The first of each is cold: code and pages that nobody has touched yet.
    value, least = statistics.median(ours[1:]) * 1000, statistics.median(bare[1:]) * 1000
    return [Figure(f"order to the last of {DAEMONS} daemons and all acks", value, "ms", least, TARGET)]


async def _attached(built: House) -> None:
    presence = built.core.services.presence
    while sum(machine.attached for machine in presence.machines()) < DAEMONS:
        await asyncio.sleep(0.2)
    await _settled(built)


async def _settled(built: House) -> None:
    """Wait until every daemon holds the newest orders and all that is written down, so that only the order is measured."""
    _, generation, _ = built.core.services.stops.order_set()
    while any(machine.orders_generation < generation for machine in built.core.services.presence.machines()):
        await asyncio.sleep(0.05)
    await asyncio.sleep(ORDERS_WRITTEN_AFTER.total_seconds())
    for _ in range(DAEMONS // WRITTEN_AT_ONCE + 1):
        await built.core.services.presence.flush()


async def _order(built: House) -> float:
    stops, presence = built.core.services.stops, built.core.services.presence
    await _settled(built)
    waiting = {machine.id for machine in presence.machines()}
    done = asyncio.Event()
    note = presence.holds

    def holds(machine: str, epoch: str, generation: int) -> bool:
        news = note(machine, epoch, generation)
        if generation > before:
            waiting.discard(machine)
            if not waiting:
                done.set()
        return news

    _, before, _ = stops.order_set()
    presence.holds = holds  # type: ignore[method-assign]  # an ear at the place where an ack is noted
    began = time.perf_counter()
    order = await stops.issue(built.owner, Selector(repos=("nobody/has-this",)), "a measurement")
    await done.wait()
    took = time.perf_counter() - began
    presence.holds = note  # type: ignore[method-assign]
    await stops.lift(built.owner, order.id, "measured")
    return took


class Floor:
    def __init__(self, built: House) -> None:
        self._built = built
        self._streams: list[grpc.aio.ServicerContext] = []
        self._acks = 0
        self._done = asyncio.Event()
        self.full = asyncio.Event()
        self.port = 0
        self._payload = b"x" * 160  # what an order set with one order takes

    async def attach(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        self._streams.append(context)
        if len(self._streams) == DAEMONS:
            self.full.set()
        async for _ in requests:
            self._acks += 1
            if self._acks == DAEMONS:
                self._done.set()

    async def broadcast(self) -> float:
        self._acks = 0
        self._done.clear()
        began = time.perf_counter()
        await self._built.store.client.call("SET", "bench", self._payload, again=True)
        waiting = iter(self._streams)

        async def write() -> None:
            for stream in waiting:
                await stream.write(self._payload)

        async with asyncio.TaskGroup() as tasks:
            for number in range(64):
                tasks.create_task(write(), name=f"writer {number}")
        await self._done.wait()
        return time.perf_counter() - began


@contextlib.asynccontextmanager
async def _floor(built: House) -> AsyncIterator[Floor]:
    floor = Floor(built)
    server = grpc.aio.server(options=[*KEEPALIVE, *HERD])
    handler = grpc.stream_stream_rpc_method_handler(floor.attach)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Floor", {"Attach": handler}),))
    pair = built.core.authority.server()
    credentials = grpc.ssl_server_credentials(
        [(pair.key, pair.certificate)], root_certificates=built.core.authority.ca_pem, require_client_auth=True
    )
    floor.port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield floor
    finally:
        await server.stop(0.5)


@contextlib.asynccontextmanager
async def peers(kind: str, homes: list[Path], port: int) -> AsyncIterator[None]:
    """Run these daemons (or the floor's bare clients) in two other processes while the block runs."""
    shares = [homes[number::PROCESSES] for number in range(PROCESSES)]
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.order", kind, str(port), *map(str, share),
            stdin=asyncio.subprocess.PIPE, env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
        )
        for share in shares
    ]  # fmt: skip
    try:
        yield
    finally:
        for child in children:
            child.terminate()
        await asyncio.gather(*(child.wait() for child in children))


async def _daemons(homes: Iterable[Path]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        controls = []
        for home in homes:
            daemon = await stack.enter_async_context(put_together(daemon_settings.Settings(home=home)))
            controls.append(daemon.control)
        async with asyncio.TaskGroup() as tasks:
            for number, control in enumerate(controls):
                tasks.create_task(control.run(), name=f"link {number}")
            for control in controls:
                await control.attached.wait()
            # A machine has one daemon's objects to look through, not those of five hundred.
            gc.collect()
            gc.freeze()


async def _bare(homes: Iterable[Path], port: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for home in homes:
            tasks.create_task(_bare_one(home, port), name=home.name)


async def _bare_one(home: Path, port: int) -> None:
    file = os.open(home / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    credentials = channels.mutual(Identity(home))
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=channels.OPTIONS) as channel:
        stream = channel.stream_stream(METHOD)()
        while (message := await stream.read()) is not grpc.aio.EOF:
            os.write(file, message)
            os.fsync(file)
            await stream.write(b"ack")


def child(kind: str, port: str, *homes: str) -> None:
    quiet()
    channels.raise_descriptor_limit()
    paths = [Path(home) for home in homes]
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        uvloop.run(_with_parent(_daemons(paths) if kind == "daemons" else _bare(paths, int(port))))


async def _with_parent(work: Coroutine[None, None, None]) -> None:
    """Do *work* as long as the process lives that measures."""
    task = asyncio.create_task(work)
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), task.cancel)
    await task


if __name__ == "__main__":
    child(*sys.argv[1:])
