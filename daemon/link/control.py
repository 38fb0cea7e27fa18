"""The one control stream: hello, welcome, then facts up and orders down. Whatever ends it, it is dialled again."""

import asyncio
import random
from collections import deque
from collections.abc import Mapping
from typing import Protocol

import grpc
import structlog
from switchboard_rpc.v1 import fleet_pb2, fleet_pb2_grpc

from daemon import faults
from daemon.clock import Clock
from daemon.domain.facts import RunRecord
from daemon.domain.instruction import Fact, Held, Hello, Instruction, Welcome
from daemon.domain.run import LIVE
from daemon.identity import Identity
from daemon.link import channels
from daemon.translate import down, up

log = structlog.get_logger()

FIRST_REPLY_S = 10.0
MISSED = 3  # heartbeats without a word from the other side: the link is dead
SLOW_S = 30.0  # where trying again is of little use
HELLO_BYTES = 512 * 1024  # beside the orders held; what is over goes up as reports
ACKS_NOTED_AFTER_S = 0.25
BEHIND_S = 1.0  # for a broadcast to arrive that a heartbeat has overtaken


class Hands(Protocol):
    """What the wire needs of the daemon. These never wait and never raise for what the other side says."""

    def hello(self) -> Hello: ...

    def welcomed(self, welcome: Welcome) -> None:
        """Orders are on the disk, and acted on, when it returns."""

    def ordered(self, held: Held) -> None: ...

    def instructed(self, instruction: Instruction) -> None: ...

    def acked(self, fact: Fact) -> None:
        """The switchboard has *fact* durably."""

    def pulses(self) -> Mapping[str, int]: ...

    def held(self) -> tuple[str, int]:
        """Return store epoch and generation of the orders on the disk."""


class LinkLost(Exception):
    """Why the stream is over; the text is for the log."""

    def __init__(self, text: str, *, slow: bool = False, at_once: bool = False) -> None:
        super().__init__(text)
        self.slow, self.at_once = slow, at_once


class Control:
    def __init__(self, identity: Identity, hands: Hands, clock: Clock) -> None:
        self._identity, self._hands, self._clock = identity, hands, clock
        self._outgoing: asyncio.Queue[tuple[fleet_pb2.AttachRequest, Fact | None]] | None = None
        self._unacked: dict[int, Fact] = {}  # report number: what it carried
        self._settled: deque[Fact] = deque()  # acknowledged, which is not written down yet
        self._settling: asyncio.TimerHandle | None = None
        self._heard_ms = 0
        self._behind_since: int | None = None
        self._received = ("", 0)  # store epoch and generation of the orders that have arrived, on the disk or not
        self._again = asyncio.Event()
        self.attached = asyncio.Event()
        self.trouble = "not attached yet"  # why not, in words; empty while attached

    def report(self, fact: Fact) -> None:
        """Send *fact* now if there is a link; if not, it is in the next hello."""
        if self._outgoing is not None:
            *earlier, last = up.reports(fact, self._clock)
            for message in earlier:
                self._outgoing.put_nowait((message, None))
            self._outgoing.put_nowait((last, fact))  # its ack covers what went before

    @property
    def owed(self) -> bool:
        """Whether something was reported that the switchboard has not acknowledged."""
        return bool(self._unacked) or (self._outgoing is not None and not self._outgoing.empty())

    def again(self) -> None:
        """Hang up and say hello again, by the certificate of this moment."""
        self._again.set()

    async def run(self) -> None:
        """Stay attached, for ever."""
        patience = channels.Patience()
        while True:
            self._again.clear()
            try:
                await self._attach(patience)
                lost = LinkLost("the switchboard hung up")
            except* (LinkLost, grpc.aio.AioRpcError, TimeoutError, OSError) as group:
                lost = _first(group)
            finally:
                self.attached.clear()
                self._outgoing = None
                self._unacked.clear()
            channels.stop_if_cancelled()
            wait = SLOW_S if lost.slow else patience.next_s(self._clock.boot_ms())
            if lost.at_once:
                wait = random.uniform(0, 0.5)  # noqa: S311 - spreads a herd, no secret
            said = log.error if lost.slow else log.info
            if str(lost) != self.trouble:
                said("not attached", why=str(lost), next_try_s=round(wait, 1))
            self.trouble = str(lost)
            await self._pause(wait)

    async def _pause(self, wait: float) -> None:
        try:
            async with asyncio.timeout(wait):
                await self._again.wait()
        except TimeoutError:
            return

    async def _attach(self, patience: channels.Patience) -> None:
        async with channels.fleet(self._identity) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            stream = stub.Attach()
            # From the hello on nothing is missed: what happens before the welcome follows it.
            outgoing: asyncio.Queue[tuple[fleet_pb2.AttachRequest, Fact | None]] = asyncio.Queue()
            self._outgoing = outgoing
            try:
                said = self._hands.hello()
                fit, rest = self._packed(said)
                whole = not any(isinstance(fact, RunRecord) and fact.state in LIVE for fact in rest)
                hello = up.hello(said, self._clock, fit, all_live_runs=whole)
                first = fleet_pb2.AttachRequest(report=1, hello=hello)
                async with asyncio.timeout(FIRST_REPLY_S):
                    await stream.write(first)
                    faults.point("link.hello.sent")
                    reply = await stream.read()
                welcome = self._welcomed(reply)
                patience.reset()
                # What the hello carried counts as report 1: one entry for each, under numbers that no report has.
                self._unacked = {1 - index: fact for index, fact in enumerate(fit)}
                self._heard_ms = self._clock.boot_ms()
                self._behind_since = None
                self.trouble = ""
                self._received = welcome.store_epoch, welcome.generation
                self._hands.welcomed(welcome)
                for fact in rest:
                    self.report(fact)
                self.attached.set()
                log.info("attached", machine=welcome.machine, connection=welcome.connection)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._write(stream, outgoing), name="facts up")
                    tasks.create_task(self._beat(outgoing, welcome.heartbeat_ms), name="heartbeats")
                    tasks.create_task(self._asked_again(), name="asked to dial again")
                    await self._read(stream)
            finally:
                stream.cancel()

    def _packed(self, said: Hello) -> tuple[list[Fact], list[Fact]]:
        """Return the facts that go into the hello, and those that follow it."""
        fit: list[Fact] = []
        rest: list[Fact] = []
        room = HELLO_BYTES - 64 * len(said.spool)
        for fact in said.facts:
            messages = up.reports(fact, self._clock)
            size = sum(message.ByteSize() for message in messages)
            fields = all(m.WhichOneof("kind") in ("run", "approval", "decision_receipt", "receipt") for m in messages)
            if fields and size <= room:
                fit.append(fact)
                room -= size
            else:
                rest.append(fact)
        return fit, rest

    def _welcomed(self, reply: fleet_pb2.AttachResponse) -> Welcome:
        if reply is grpc.aio.EOF:
            raise LinkLost("the switchboard hung up at hello")
        if reply.WhichOneof("kind") == "fenced":
            raise LinkLost(reply.fenced.reason or "fenced", slow=not reply.fenced.retry)
        if reply.WhichOneof("kind") != "welcome":
            raise LinkLost("the switchboard's first word was no welcome", slow=True)
        return down.welcome(reply.welcome)

    async def _read(self, stream: grpc.aio.StreamStreamCall) -> None:
        while True:
            reply = await stream.read()
            if reply is grpc.aio.EOF:
                await self._why(stream)
            self._heard_ms = self._clock.boot_ms()
            if reply.acked:
                self._acked(reply.acked)
            match reply.WhichOneof("kind"):
                case "instruction":
                    faults.point("link.instruction.taken")
                    self._hands.instructed(down.instruction(reply.instruction))
                case "orders":
                    held = down.orders_of(reply.orders)
                    self._received, self._behind_since = (held.store_epoch, held.generation), None
                    self._hands.ordered(held)
                case "beat":
                    self._compare(reply.beat)
                case "fenced":
                    raise LinkLost(reply.fenced.reason or "fenced by a newer connection", slow=not reply.fenced.retry)
                case _:
                    pass  # a bare ack, or a word of a newer switchboard

    async def _why(self, stream: grpc.aio.StreamStreamCall) -> None:
        code, details = await stream.code(), await stream.details()
        slow = code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
        raise LinkLost(f"the switchboard hung up: {details or code}", slow=slow)

    async def _write(
        self,
        stream: grpc.aio.StreamStreamCall,
        outgoing: asyncio.Queue[tuple[fleet_pb2.AttachRequest, Fact | None]],
    ) -> None:
        number = 1
        while True:
            message, fact = await outgoing.get()
            number += 1
            message.report = number
            if fact is not None:
                self._unacked[number] = fact
            await stream.write(message)
            faults.point("link.report.sent")

    def _acked(self, upto: int) -> None:
        done = [number for number in self._unacked if number <= upto]
        self._settled += [self._unacked.pop(number) for number in done]
        if self._settled and self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(ACKS_NOTED_AFTER_S, self._note_acks)

    def _note_acks(self) -> None:
        """Write down what was acknowledged: later, because nobody waits for it and a decision may be on its way."""
        self._settling = None
        while self._settled:
            self._hands.acked(self._settled.popleft())

    async def _beat(
        self, outgoing: asyncio.Queue[tuple[fleet_pb2.AttachRequest, Fact | None]], heartbeat_ms: int
    ) -> None:
        while True:
            await asyncio.sleep(heartbeat_ms / 1000)
            now = self._clock.boot_ms()
            if now - self._heard_ms > MISSED * heartbeat_ms:
                raise LinkLost(f"the switchboard has been silent for {(now - self._heard_ms) / 1000:.0f} s")
            if self._behind_since is not None and now - self._behind_since > BEHIND_S * 1000:
                raise LinkLost("the switchboard has orders that did not arrive here", at_once=True)
            outgoing.put_nowait((up.heartbeat(self._hands.pulses(), *self._hands.held()), None))

    def _compare(self, beat: fleet_pb2.Beat) -> None:
        epoch, generation = self._received
        if beat.store_epoch != epoch:
            raise LinkLost("the switchboard's store is another one now", at_once=True)
        if beat.generation <= generation:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._clock.boot_ms()

    async def _asked_again(self) -> None:
        await self._again.wait()
        raise LinkLost("dialling again", at_once=True)


def _first(group: BaseExceptionGroup[BaseException]) -> LinkLost:
    """Return the first cause as a LinkLost; a word of the other side stands before what broke because of it."""
    leaves: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(error.exceptions)
        else:
            leaves.append(error)
    for error in leaves:
        if isinstance(error, LinkLost):
            return error
    for error in leaves:
        if isinstance(error, grpc.aio.AioRpcError):
            slow = error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
            return LinkLost(error.details() or error.code().name, slow=slow)
    return LinkLost(str(leaves[0]) or "the switchboard does not answer")
