"""Output up, durable watermarks down, and answers to questions: a connection of its own, so that none of it delays control.

One batch of a run is on its way at a time, so every watermark that comes answers the batch before it.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

import grpc
import structlog
from switchboard_rpc.v1 import fleet_pb2, fleet_pb2_grpc

from daemon.clock import Clock
from daemon.identity import Identity
from daemon.link import channels
from daemon.translate import output as words

log = structlog.get_logger()

ANSWER_S = 30.0  # for a batch's watermark; a server that owes one longer is dialled again
REFUSED_S = 0.5  # until a batch that was not taken is sent again
PART = 256 * 1024
MOST_ANSWERS = 64  # that wait for their receipt; the oldest go first


@dataclass(frozen=True, slots=True)
class Batch:
    first: int
    count: int
    events: list[bytes]


class Source(Protocol):
    """Where output comes from."""

    def pending(self) -> list[str]:
        """Return the runs that have something to send."""

    def batch(self, run: str) -> Batch | None:
        """Return what is to be sent next of *run*."""

    def answered(self, run: str, sent: Batch, next: int) -> None: ...


@dataclass(slots=True)
class _Stream:
    """What is in flight on one connection."""

    sent: dict[str, tuple[Batch, int]] = field(default_factory=dict)  # run: its batch, and when it went
    told: set[str] = field(default_factory=set)  # answers written


class Upload:
    def __init__(self, identity: Identity, source: Source, clock: Clock, attached: asyncio.Event) -> None:
        self._identity, self._source, self._clock, self._attached = identity, source, clock, attached
        self._wake = asyncio.Event()
        self._dirty: OrderedDict[str, None] = OrderedDict()  # runs with something to send, in turn
        self._answers: OrderedDict[str, tuple[bytes, str]] = OrderedDict()

    def poke(self, run: str) -> None:
        """*run* has output to send."""
        self._dirty[run] = None
        self._wake.set()

    def answer(self, instruction: str, body: bytes, error: str = "") -> None:
        """Send *body*, or the one sentence *error*; sent again until its arrival is confirmed."""
        self._answers[instruction] = (body, error)
        while len(self._answers) > MOST_ANSWERS:
            self._answers.popitem(last=False)
        self._wake.set()

    async def run(self) -> None:
        """Keep a stream open while this machine is attached, for ever."""
        patience = channels.Patience()
        while True:
            await self._attached.wait()
            try:
                await self._upload(patience)
            except* (grpc.aio.AioRpcError, TimeoutError, OSError) as group:
                log.debug("upload cut", why=str(group.exceptions[0]))
            channels.stop_if_cancelled()
            await asyncio.sleep(patience.next_s(self._clock.boot_ms()))

    async def _upload(self, patience: channels.Patience) -> None:
        async with channels.fleet(self._identity) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            stream = stub.Upload()
            flight = _Stream()
            for run in self._source.pending():
                self._dirty[run] = None
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._send(stream, flight), name="output up")
                    tasks.create_task(self._impatient(flight), name="owed watermarks")
                    while (reply := await stream.read()) is not grpc.aio.EOF:
                        patience.reset()
                        self._take(reply, flight)
                    raise OSError(f"the upload ended: {await stream.details() or await stream.code()}")
            finally:
                stream.cancel()

    async def _send(self, stream: grpc.aio.StreamStreamCall, flight: _Stream) -> None:
        while True:
            self._wake.clear()
            for instruction in [id for id in self._answers if id not in flight.told]:
                flight.told.add(instruction)
                for message in _parts(instruction, *self._answers[instruction]):
                    await stream.write(message)
            for run in [run for run in self._dirty if run not in flight.sent]:
                batch = self._source.batch(run)
                if batch is None:
                    self._dirty.pop(run, None)
                    continue
                flight.sent[run] = (batch, self._clock.boot_ms())
                await stream.write(words.batch(run, batch.first, batch.count, batch.events))
            await self._wake.wait()

    def _take(self, reply: fleet_pb2.UploadResponse, flight: _Stream) -> None:
        if reply.WhichOneof("kind") == "answered":
            self._answers.pop(reply.answered, None)
            return
        run, next = reply.watermark.run_id, reply.watermark.next
        sent = flight.sent.get(run)
        if sent is None:
            return
        batch, _ = sent
        self._source.answered(run, batch, next)
        if next == batch.first:
            # Not taken, and nothing else wanted: its run may not be announced yet. Its place in flight holds it back.
            asyncio.get_running_loop().call_later(REFUSED_S, self._let_go, run, flight)
            return
        self._let_go(run, flight)

    def _let_go(self, run: str, flight: _Stream) -> None:
        flight.sent.pop(run, None)
        self.poke(run)

    async def _impatient(self, flight: _Stream) -> None:
        while True:
            await asyncio.sleep(ANSWER_S / 3)
            now = self._clock.boot_ms()
            if any(now - since > ANSWER_S * 1000 for _, since in flight.sent.values()):
                raise TimeoutError("the switchboard owes a watermark")


def _parts(instruction: str, body: bytes, error: str) -> list[fleet_pb2.UploadRequest]:
    pieces = [body[at : at + PART] for at in range(0, len(body), PART)] or [b""]
    last = len(pieces) - 1
    return [
        words.answer(instruction, piece, last=number == last, error=error if number == last else "")
        for number, piece in enumerate(pieces)
    ]
