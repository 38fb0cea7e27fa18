"""The daemons' end of the wire: translate, delegate, decide nothing."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

from switchboard_rpc.v1 import fleet_pb2 as pb
from switchboard_rpc.v1 import fleet_pb2_grpc as pb_grpc
from switchboard_rpc.v1 import run_pb2

from switchboard import faults
from switchboard.clock import Clock
from switchboard.domain.errors import Invalid, SwitchboardError
from switchboard.domain.instruction import Instruction
from switchboard.rpc.access import Context, caller, serialised
from switchboard.rpc.ca import Authority
from switchboard.rpc.outward import certificate_to, instruction_to, order_set_to
from switchboard.rpc.status import send
from switchboard.rpc.translate import hello_of, report_of, silent_of
from switchboard.rpc.upload import Uploads
from switchboard.services.fleet import Fleet, Hello, Welcome
from switchboard.services.identity import Identity
from switchboard.services.line import AckDue, BeatDue, Fenced, Line, OrdersDue
from switchboard.services.order_book import Mark
from switchboard.services.output import Output
from switchboard.services.queries import Queries
from switchboard.services.reports import STORING
from switchboard.services.stops import Stops

HELLO_WITHIN = 10.0  # seconds


class FleetServicer(pb_grpc.FleetServiceServicer):
    def __init__(
        self,
        *,
        fleet: Fleet,
        stops: Stops,
        output: Output,
        queries: Queries,
        identity: Identity,
        authority: Authority,
        clock: Clock,
    ) -> None:
        self._fleet = fleet
        self._stops = stops
        self._identity = identity
        self._authority = authority
        self._clock = clock
        self._uploads = Uploads(fleet, output, queries)
        self._encoded: tuple[object, dict[Mark, bytes]] = (None, {})

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:
        machine, pem = await self._identity.renew(caller(), request.csr_pem)
        left = machine.certificate_until - self._clock.now()
        certificate = certificate_to(pem, self._authority.ca_pem, left, machine.generation)
        return pb.RenewResponse(certificate=certificate)

    async def Upload(self, requests: AsyncIterator[pb.UploadRequest], context: Context) -> None:
        await self._uploads.hold(caller(), requests, context)

    # A coroutine that reads and writes, not a generator: a task group must not span a yield.
    async def Attach(self, requests: AsyncIterator[pb.AttachRequest], context: Context) -> None:
        """Hold one daemon's control stream open until it hangs up, goes silent, or is fenced off."""
        presented = caller()
        first = await _hello(requests)
        hello, bad = hello_of(presented.machine, first.hello, self._clock.now())
        line, welcome = await self._fleet.attach(presented, hello)
        try:
            line.orders_told = self._stops.order_mark()
            await send(context, self._welcome(welcome))
            faults.point("rpc.welcome.sent")
            for error in bad:
                await self._fleet.refused(line.machine, "hello", error)
            async with asyncio.TaskGroup() as tasks:
                speaking = tasks.create_task(self._speak(line, context), name=f"to {line.machine}")
                listening = tasks.create_task(
                    self._listen(line, first.report, hello, requests), name=f"from {line.machine}"
                )
                await asyncio.wait({speaking, listening}, return_when=asyncio.FIRST_COMPLETED)
                speaking.cancel()
                listening.cancel()
        finally:
            self._fleet.detach(line)

    async def _listen(self, line: Line, report: int, hello: Hello, requests: AsyncIterator[pb.AttachRequest]) -> None:
        room = asyncio.Semaphore(STORING)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._catch_up(line, report, hello), name=f"hello of {line.machine}")
            async for message in requests:
                self._fleet.heard(line)
                if self._lives_in_memory(line, message):
                    line.stored(message.report, hurry=False)
                    continue
                await room.acquire()
                tasks.create_task(self._keep(line, message, room), name=f"report of {line.machine}")

    def _lives_in_memory(self, line: Line, message: pb.AttachRequest) -> bool:
        """Take what is told again and again, so that it need not be stored before it is acknowledged."""
        match message.WhichOneof("kind"):
            case "heartbeat":
                beat = message.heartbeat
                self._fleet.heartbeat(line, beat.store_epoch, beat.generation, silent_of(beat))
                return True
            case "orders_seen" if not message.orders_seen.matches:
                self._fleet.orders_seen(line, message.orders_seen.store_epoch, message.orders_seen.generation)
                return True
            case _:
                return False

    async def _catch_up(self, line: Line, report: int, hello: Hello) -> None:
        await self._fleet.catch_up(line, hello)
        line.stored(report)

    async def _keep(self, line: Line, message: pb.AttachRequest, room: asyncio.Semaphore) -> None:
        """Store one report, then count it as stored; one that will not do is refused and counts, too."""
        try:
            try:
                report = report_of(line.machine, message, self._clock.now())
            except SwitchboardError as error:
                await self._fleet.refused(line.machine, str(message.WhichOneof("kind")), error)
            else:
                if report is not None:
                    await self._fleet.record(line, report)
            faults.point("rpc.report.stored")
            line.stored(message.report)
        finally:
            room.release()

    async def _speak(self, line: Line, context: Context) -> None:
        while True:
            due = await line.next()
            acked = line.acked
            match due:
                case OrdersDue():
                    await send(context, self._orders(line))
                    continue
                case BeatDue():
                    epoch, generation, _ = self._stops.order_set()
                    answer = pb.AttachResponse(acked=acked, beat=pb.Beat(store_epoch=epoch, generation=generation))
                case Instruction():
                    answer = pb.AttachResponse(acked=acked, instruction=instruction_to(due))
                case AckDue():
                    answer = pb.AttachResponse(acked=acked)
                case Fenced():
                    await send(context, pb.AttachResponse(fenced=pb.Fenced(reason=due.reason, retry=due.retry)))
                    raise due.error
            await send(context, answer)
            line.told(acked)
            faults.point("rpc.report.acked")
            if isinstance(due, Instruction):
                faults.point("rpc.instruction.sent")

    def _orders(self, line: Line) -> bytes:
        """Return the message that carries what *line* was not told of the orders, encoded once for all that know as much."""
        present = self._stops.order_set()
        if self._encoded[0] is not present:
            self._encoded = (present, {})
        told, line.orders_told = line.orders_told, self._stops.order_mark()
        encoded = self._encoded[1]
        if told not in encoded:
            encoded[told] = serialised(pb.AttachResponse(orders=order_set_to(*self._stops.order_news(told))))
        return encoded[told]

    def _welcome(self, welcome: Welcome) -> pb.AttachResponse:
        return pb.AttachResponse(
            welcome=pb.Welcome(
                machine_id=welcome.machine,
                orders=order_set_to(*self._stops.order_set()),
                heartbeat_ms=int(welcome.heartbeat / timedelta(milliseconds=1)),
                watermarks=[run_pb2.Watermark(run_id=run, next=next) for run, next in welcome.watermarks.items()],
                connection=welcome.connection,
                owner=welcome.owner,
                solo=welcome.solo,
            )
        )


async def _hello(requests: AsyncIterator[pb.AttachRequest]) -> pb.AttachRequest:
    try:
        async with asyncio.timeout(HELLO_WITHIN):
            first = await anext(requests)
    except StopAsyncIteration as error:
        raise Invalid("hello", "the stream ended before its hello") from error
    except TimeoutError as error:
        raise Invalid("hello", f"no hello came within {HELLO_WITHIN:.0f} s") from error
    if first.WhichOneof("kind") != "hello":
        raise Invalid("hello", "the first message of an attachment must be a hello")
    return first
