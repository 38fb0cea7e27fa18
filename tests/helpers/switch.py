"""The other end of the wire, told by a test what to say: the contract over real gRPC and mTLS, and nothing of the server's mind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from switchboard_rpc.v1 import (
    approval_pb2,
    enroll_pb2,
    enroll_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    run_pb2,
    stop_pb2,
)

from switchboard.clock import SystemClock
from switchboard.rpc.ca import Authority

MACHINE = "m-mill"
TOKEN = "sbj_secret_"


@dataclass
class Attached:
    """One Attach stream, as the server sees it."""

    hello: fleet_pb2.Hello
    context: Any
    reports: list[fleet_pb2.AttachRequest] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    welcomed: asyncio.Event = field(default_factory=asyncio.Event)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def send(self, **kind: Any) -> None:
        async with asyncio.timeout(30):  # a stream that died in between says nothing
            if "welcome" not in kind:
                await self.welcomed.wait()
            async with self._turn:
                await self.context.write(fleet_pb2.AttachResponse(**kind))
        self.welcomed.set()


class Switch(fleet_pb2_grpc.FleetServiceServicer, enroll_pb2_grpc.EnrollServiceServicer):
    def __init__(self, home: Path) -> None:
        self.authority = Authority(home, SystemClock())
        self.streams: list[Attached] = []
        self.facts: list[Any] = []  # (field, message) of every fact, from hellos and reports, in order
        self.events: dict[str, list[run_pb2.RunEvent]] = {}
        self.next: dict[str, int] = {}
        self.answers: dict[str, tuple[bytes, str]] = {}
        self.orders = stop_pb2.OrderSet(store_epoch="e1")
        self.heartbeat_ms = 500
        self.acks = True  # whether reports are acknowledged
        self.beats = True
        self.life_s = 24 * 3600
        self.generation = 1
        self.renewals: list[str] = []  # "attached" or "expired"
        self.lost_replies = 0  # renewals that are carried out and not answered
        self.enrolled: list[bytes] = []
        self.watermarks: dict[str, int] = {}
        self.take_batches = True
        self.attach_error: tuple[grpc.StatusCode, str] | None = None
        self.on_hello: Callable[[Attached], Any] | None = None
        self._parts: dict[str, bytes] = {}
        self._ids = 0

    # What tests say.

    @property
    def token(self) -> str:
        return f"{TOKEN}{self.authority.enroll_fingerprint}"

    @property
    def stream(self) -> Attached:
        """The newest stream that is alive."""
        alive = [stream for stream in self.streams if not stream.gone.is_set()]
        assert alive, "no daemon is attached"
        return alive[-1]

    def id(self, kind: str) -> str:
        self._ids += 1
        return f"{kind}-{self._ids}"

    async def order(self, *, hold: bool = True, by: str = "ana", reason: str = "incident", **selector: Any) -> str:
        """Put a stop order into the set and hand it out."""
        self.orders.generation += 1
        order = stop_pb2.StopOrder(
            id=self.id("o"),
            generation=self.orders.generation,
            selector=stop_pb2.Selector(**selector),
            reason=reason,
            by=by,
            hold=hold,
        )
        self.orders.orders.append(order)
        for stream in self.streams:
            if not stream.gone.is_set():
                await stream.send(orders=self.orders)
        return order.id

    async def lift(self, id: str) -> None:
        self.orders.generation += 1
        for order in self.orders.orders:
            if order.id == id:
                order.lifted, order.lifted_by, order.generation = True, "ana", self.orders.generation
        await self.stream.send(orders=self.orders)

    async def instruct(self, id: str | None = None, **kind: Any) -> str:
        id = id or self.id("i")
        await self.stream.send(instruction=fleet_pb2.Instruction(id=id, by="ana", reason="", **kind))
        return id

    def run(self, id: str) -> run_pb2.Run | None:
        """The newest that was announced of a run."""
        return self._newest("run", lambda run: run.id == id)

    def states(self, id: str) -> list[str]:
        names = [run_pb2.RunState.Name(m.state)[10:].lower() for f, m in self.facts if f == "run" and m.id == id]
        return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]

    def approvals(self, run: str) -> list[approval_pb2.Approval]:
        newest = {m.id: m for f, m in self.facts if f == "approval" and m.run_id == run}
        return list(newest.values())

    def open_approval(self, run: str) -> approval_pb2.Approval | None:
        still = [a for a in self.approvals(run) if a.state == approval_pb2.APPROVAL_STATE_OPEN]
        return still[0] if still else None

    def receipts(self, order: str) -> dict[str, stop_pb2.Receipt]:
        return {m.run_id: m for f, m in self.facts if f == "receipt" and m.order_id == order}

    def decision_receipts(self, approval: str) -> list[approval_pb2.DecisionReceipt]:
        return [m for f, m in self.facts if f == "decision_receipt" and m.approval_id == approval]

    def report(self, instruction: str) -> fleet_pb2.InstructionReport | None:
        return self._newest("instruction_report", lambda report: report.instruction_id == instruction)

    def seen(self, generation: int) -> stop_pb2.OrdersSeen | None:
        return self._newest("orders_seen", lambda seen: seen.generation == generation)

    def text(self, run: str) -> str:
        """What the run itself said: not what it was told, which holds the model's script."""
        told = run_pb2.EVENT_KIND_PROMPT
        return "".join(event.text for event in self.events.get(run, []) if event.kind != told)

    def _newest(self, field: str, which: Callable[[Any], bool]) -> Any:
        return next((m for f, m in reversed(self.facts) if f == field and which(m)), None)

    # The contract.

    async def Enroll(self, request: enroll_pb2.EnrollRequest, context: Any) -> enroll_pb2.EnrollResponse:
        if request.token != self.token:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this join token was used before")
        self.enrolled.append(request.csr_pem)
        return enroll_pb2.EnrollResponse(machine_id=MACHINE, certificate=self._certificate(request.csr_pem))

    async def Renew(self, request: Any, context: Any) -> Any:
        expired = isinstance(request, enroll_pb2.EnrollServiceRenewRequest)
        self.renewals.append("expired" if expired else "attached")
        if expired:
            self.authority.presented_expired(request.expired_pem, request.csr_pem, request.signature)
        self.generation += 1
        reply = enroll_pb2.EnrollServiceRenewResponse if expired else fleet_pb2.RenewResponse
        certificate = self._certificate(request.csr_pem)
        self.enrolled.append(request.csr_pem)
        if self.lost_replies:
            self.lost_replies -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the reply was lost")
        return reply(certificate=certificate)

    def _certificate(self, csr_pem: bytes) -> enroll_pb2.Certificate:
        issued = self.authority.issue(csr_pem, MACHINE, self.generation)
        return enroll_pb2.Certificate(
            certificate_pem=issued.certificate_pem.encode(),
            ca_pem=self.authority.ca_pem,
            life_s=self.life_s,
            generation=self.generation,
        )

    async def Attach(self, requests: AsyncIterator[fleet_pb2.AttachRequest], context: Any) -> None:
        if self.attach_error:
            await context.abort(*self.attach_error)
        first = await anext(aiter(requests))
        assert first.WhichOneof("kind") == "hello", "the first word is a hello"
        stream = Attached(first.hello, context)
        self.streams.append(stream)
        for field_name in ("runs", "approvals", "receipts", "decision_receipts"):
            for message in getattr(first.hello, field_name):
                self.facts.append((field_name[:-1], message))
        marks = {**{r.run_id: self.next.get(r.run_id, 1) for r in first.hello.spool}, **self.watermarks}
        welcome = fleet_pb2.Welcome(
            machine_id=MACHINE,
            orders=self.orders,
            heartbeat_ms=self.heartbeat_ms,
            watermarks=[run_pb2.Watermark(run_id=run, next=next) for run, next in marks.items()],
            connection=len(self.streams),
        )
        if self.on_hello:
            await self.on_hello(stream)
        await stream.send(acked=first.report if self.acks else 0, welcome=welcome)
        try:
            async for request in requests:
                stream.reports.append(request)
                kind = request.WhichOneof("kind")
                if kind == "heartbeat":
                    if self.beats:
                        beat = fleet_pb2.Beat(store_epoch=self.orders.store_epoch, generation=self.orders.generation)
                        await stream.send(beat=beat)
                else:
                    self.facts.append((kind, getattr(request, kind)))
                if self.acks:
                    await stream.send(acked=request.report)
        finally:
            stream.gone.set()

    async def Upload(self, requests: AsyncIterator[fleet_pb2.UploadRequest], context: Any) -> None:
        async for request in requests:
            if request.WhichOneof("kind") == "answer":
                await self._answer(request.answer, context)
                continue
            batch = request.batch
            next = self.next.get(batch.run_id, 1)
            if self.take_batches and batch.first == next:
                events = run_pb2.RunEvents.FromString(batch.events).events
                self.events.setdefault(batch.run_id, []).extend(events)
                self.next[batch.run_id] = next = batch.first + batch.count
            mark = run_pb2.Watermark(run_id=batch.run_id, next=next)
            await context.write(fleet_pb2.UploadResponse(watermark=mark))

    async def _answer(self, answer: fleet_pb2.Answer, context: Any) -> None:
        whole = self._parts.pop(answer.instruction_id, b"") + answer.part
        if not answer.last:
            self._parts[answer.instruction_id] = whole
            return
        self.answers[answer.instruction_id] = (whole, answer.error)
        await context.write(fleet_pb2.UploadResponse(answered=answer.instruction_id))


@dataclass
class Ports:
    fleet: int
    enroll: int

    @property
    def fleet_address(self) -> str:
        return f"127.0.0.1:{self.fleet}"

    @property
    def enroll_address(self) -> str:
        return f"127.0.0.1:{self.enroll}"


@contextlib.asynccontextmanager
async def serving(switch: Switch, ports: Ports | None = None) -> AsyncIterator[Ports]:
    """Serve *switch* on loopback, on *ports* again after a restart."""
    wanted = ports or Ports(0, 0)
    server_pair, enroll_pair = switch.authority.server(), switch.authority.enroll
    mutual = grpc.ssl_server_credentials(
        [(server_pair.key, server_pair.certificate)], switch.authority.ca_pem, require_client_auth=True
    )
    plain = grpc.ssl_server_credentials([(enroll_pair.key, enroll_pair.certificate)])
    options = [
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_receive_message_length", 8 << 20),
        ("grpc.so_reuseport", 0),
    ]
    machines, newcomers = grpc.aio.server(options=options), grpc.aio.server()
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(switch, machines)
    enroll_pb2_grpc.add_EnrollServiceServicer_to_server(switch, newcomers)
    bound = Ports(
        machines.add_secure_port(f"127.0.0.1:{wanted.fleet}", mutual),
        newcomers.add_secure_port(f"127.0.0.1:{wanted.enroll}", plain),
    )
    await machines.start()
    await newcomers.start()
    try:
        yield bound
    finally:
        for server in (newcomers, machines):
            with contextlib.suppress(TimeoutError):  # grpc waits for ever for a call that its peer left half way
                async with asyncio.timeout(5):
                    await server.stop(0)
