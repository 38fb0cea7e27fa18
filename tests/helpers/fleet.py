"""A real switchboard core for tests: the real store, real gRPC ports with mutual TLS, and a bare machine that speaks the contract."""

import asyncio
import hashlib
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from helpers.eventually import eventually
from helpers.valkey import ManualClock
from switchboard_rpc.v1 import approval_pb2, enroll_pb2, enroll_pb2_grpc, fleet_pb2, fleet_pb2_grpc, run_pb2, stop_pb2

from switchboard.app import compose
from switchboard.domain.people import ROLE_PERMITS, Caller, Permission, Role
from switchboard.rpc.ca import Authority
from switchboard.rpc.server import Ports
from switchboard.services.approvals import Approvals
from switchboard.services.deadlines import Deadlines
from switchboard.services.fleet import Fleet
from switchboard.services.identity import Identity
from switchboard.services.instructions import Instructions
from switchboard.services.output import Output
from switchboard.services.presence import Presence
from switchboard.services.projection import Projection
from switchboard.services.queries import Queries
from switchboard.services.runs import Runs
from switchboard.services.stops import Stops
from switchboard.settings import Settings
from switchboard.store.redis import RedisStore, open_store

OPTIONS = (("grpc.ssl_target_name_override", "switchboard"), ("grpc.max_receive_message_length", -1))


def person(name: str, role: Role = Role.REVIEWER, *, solo: bool = False) -> Caller:
    """Somebody who has signed in with a password."""
    return Caller(person=name, permits=ROLE_PERMITS[role], via="session", solo=solo)


def token_of(name: str, machine: str) -> Caller:
    """What lies on a machine's disk: looks, starts and stops there."""
    permits = frozenset({Permission.LOOK, Permission.START, Permission.STOP})
    return Caller(person=name, permits=permits, via="token", machine=machine)


ANA, BEN, KIM = person("ana", Role.ADMIN), person("ben", Role.REVIEWER), person("kim", Role.INCIDENT_LEAD)


@dataclass(slots=True, kw_only=True)
class Core:
    """One replica."""

    store: RedisStore
    clock: ManualClock
    authority: Authority
    projection: Projection
    presence: Presence
    instructions: Instructions
    approvals: Approvals
    stops: Stops
    output: Output
    runs: Runs
    queries: Queries
    identity: Identity
    fleet: Fleet
    deadlines: Deadlines
    ports: Ports

    async def machine(self, name: str = "mill", caller: Caller = ANA) -> "BareMachine":
        """Enrol a machine."""
        token, _ = await self.identity.invite(caller, name)
        machine = BareMachine(self.ports, name)
        await machine.enrol(token)
        return machine

    async def audited(self, action: str) -> list[Any]:
        return [entry for entry in await self.store.audit.read(None, 1000) if entry.action == action]


@asynccontextmanager
async def core(
    url: str,
    data: Path | None = None,
    *,
    clock: ManualClock | None = None,
    heartbeat: timedelta = timedelta(seconds=5),
    retention: timedelta = timedelta(days=7),
    reread: float = 30.0,
    notifier: Any = None,
    deadlines: bool = True,
) -> AsyncIterator[Core]:
    """Serve one replica, without its page, on free ports over the store at *url*, with its own disk in *data*."""
    clock = clock or ManualClock()
    async with AsyncExitStack() as stack:
        folder = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sbf-")))
        settings = Settings(data=folder, heartbeat=heartbeat, presence=heartbeat * 3, retention=retention)
        store = await stack.enter_async_context(open_store(url, clock=clock))
        projection = Projection(store.projected, store.changes, store.epochs, reread=reread)
        await stack.enter_async_context(projection)
        made = compose(store, projection, settings, clock=clock, base_url="http://127.0.0.1:7800", webhook=notifier)
        it = made.services
        await it.stops.refresh()
        if deadlines:
            keeping = asyncio.create_task(made.deadlines.run(), name="deadlines")
            stack.push_async_callback(_end, keeping)
        ports = await stack.enter_async_context(made.dialled(("127.0.0.1", 0), ("127.0.0.1", 0), grace=0.1))
        yield Core(
            store=store,
            clock=clock,
            authority=made.authority,
            projection=projection,
            presence=it.presence,
            instructions=it.instructions,
            approvals=it.approvals,
            stops=it.stops,
            output=it.output,
            runs=it.runs,
            queries=it.queries,
            identity=it.identity,
            fleet=made.fleet,
            deadlines=made.deadlines,
            ports=ports,
        )


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def request_for(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate request (PEM)."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatever it says")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class BareMachine:
    """A machine without a daemon: it enrols, attaches and says exactly what a test tells it to say."""

    def __init__(self, ports: Ports, name: str) -> None:
        self.ports = ports
        self.name = name
        self.id = ""
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = enroll_pb2.Certificate()

    def copy(self) -> "BareMachine":
        """A copy of its home, as somebody might have taken it."""
        other = BareMachine(self.ports, self.name)
        other.id, other.key, other.certificate = self.id, self.key, self.certificate
        return other

    async def enrol(self, token: str) -> enroll_pb2.EnrollResponse:
        """Do what `switchboard-daemon join` does, fingerprint included."""
        root = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", self.ports.enroll))
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(root)).hexdigest()
        assert found[:32] == token.rpartition("_")[2]
        async with self.enrolment(root.encode()) as stub:
            answer = await stub.Enroll(
                enroll_pb2.EnrollRequest(token=token, csr_pem=request_for(self.key), name=self.name, version="0.1.0")
            )
        self.id, self.certificate = answer.machine_id, answer.certificate
        return answer

    @asynccontextmanager
    async def enrolment(self, root: bytes | None = None) -> AsyncIterator[Any]:
        if root is None:
            text = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", self.ports.enroll))
            root = text.encode()
        target = f"127.0.0.1:{self.ports.enroll}"
        async with grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(root), options=OPTIONS) as channel:
            yield enroll_pb2_grpc.EnrollServiceStub(channel)

    @asynccontextmanager
    async def service(self, certificate: bytes | None = None, key: bytes | None = None) -> AsyncIterator[Any]:
        """A connection to the fleet port, as this machine unless told otherwise."""
        credentials = grpc.ssl_channel_credentials(
            self.certificate.ca_pem, key or pem_of(self.key), certificate or self.certificate.certificate_pem
        )
        target = f"127.0.0.1:{self.ports.fleet}"
        async with grpc.aio.secure_channel(target, credentials, options=OPTIONS) as channel:
            yield fleet_pb2_grpc.FleetServiceStub(channel)

    async def renew(self, key: ec.EllipticCurvePrivateKey | None = None) -> enroll_pb2.Certificate:
        """Trade the certificate for the next; does not take it up."""
        async with self.service() as stub:
            answer = await stub.Renew(fleet_pb2.RenewRequest(csr_pem=request_for(key or self.key)))
        return answer.certificate

    @asynccontextmanager
    async def attached(self, **hello: Any) -> AsyncIterator["Attachment"]:
        """Attach, and read in the background until the block ends."""
        async with self.service() as stub:
            attachment = Attachment(self, stub.Attach())
            hello.setdefault("boot_epoch", f"boot of {self.name}")
            await attachment.send(hello=fleet_pb2.Hello(name=self.name, version="0.1.0", **hello))
            reading = asyncio.create_task(attachment.read(), name=f"reading of {self.name}")
            try:
                await eventually(lambda: attachment.welcome or attachment.error)
                if attachment.error is not None:
                    raise attachment.error
                yield attachment
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                attachment.call.cancel()

    @asynccontextmanager
    async def uploading(self) -> AsyncIterator["Uploading"]:
        async with self.service() as stub:
            uploading = Uploading(stub.Upload())
            reading = asyncio.create_task(uploading.read(), name=f"watermarks of {self.name}")
            try:
                yield uploading
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                uploading.call.cancel()


class Attachment:
    """One attached stream and everything that has come down it, in order."""

    def __init__(self, machine: BareMachine, call: Any) -> None:
        self.machine = machine
        self.call = call
        self.reports = 0
        self.acked = 0
        self.received: list[fleet_pb2.AttachResponse] = []
        self.welcome: fleet_pb2.Welcome | None = None
        self.orders = stop_pb2.OrderSet()
        self.instructions: list[fleet_pb2.Instruction] = []
        self.beats: list[fleet_pb2.Beat] = []
        self.fenced: fleet_pb2.Fenced | None = None
        self.error: grpc.aio.AioRpcError | None = None
        self.ended = False
        self.on_orders: Callable[[stop_pb2.OrderSet], Any] | None = None

    async def send(self, **kind: Any) -> int:
        """Send one report and return its number."""
        self.reports += 1
        await self.call.write(fleet_pb2.AttachRequest(report=self.reports, **kind))
        return self.reports

    async def told(self, **kind: Any) -> None:
        """Send one report and wait until it is acknowledged."""
        number = await self.send(**kind)
        await eventually(lambda: self.acked >= number or self.ended)
        assert self.acked >= number, self.error

    async def run(self, id: str, state: str = "RUNNING", revision: int = 1, **fields: Any) -> None:
        """Announce a run and wait until that is durable."""
        await self.told(run=run(id, state, revision, **fields))

    async def seen(self, matches: dict[str, list[str]] | None = None) -> None:
        """Say that the orders are on this machine's disk."""
        found = [stop_pb2.OrderMatch(order_id=order, run_ids=runs) for order, runs in (matches or {}).items()]
        epoch, generation = self.orders.store_epoch, self.orders.generation
        await self.send(orders_seen=stop_pb2.OrdersSeen(store_epoch=epoch, generation=generation, matches=found))

    async def beat(self, **silent_ms: int) -> None:
        """Send a heartbeat, with how long each live run has been silent (r_1=300 for r-1)."""
        epoch, generation = self.orders.store_epoch, self.orders.generation
        pulses = [fleet_pb2.Pulse(run_id=run.replace("_", "-"), silent_ms=ms) for run, ms in silent_ms.items()]
        await self.send(heartbeat=fleet_pb2.Heartbeat(pulses=pulses, store_epoch=epoch, generation=generation))

    async def read(self) -> None:
        try:
            async for response in self.call:
                self._take(response)
                if response.WhichOneof("kind") in ("welcome", "orders") and self.on_orders is not None:
                    await self.on_orders(self.orders)
        except grpc.aio.AioRpcError as error:
            self.error = error
        finally:
            self.ended = True

    def _take(self, response: fleet_pb2.AttachResponse) -> None:
        self.received.append(response)
        self.acked = max(self.acked, response.acked)
        match response.WhichOneof("kind"):
            case "welcome":
                self.welcome = response.welcome
                self.orders = response.welcome.orders
            case "orders":
                self.orders = response.orders
            case "instruction":
                self.instructions.append(response.instruction)
            case "beat":
                self.beats.append(response.beat)
            case "fenced":
                self.fenced = response.fenced


class Uploading:
    def __init__(self, call: Any) -> None:
        self.call = call
        self.watermarks: dict[str, int] = {}
        self.answered: list[str] = []
        self.error: grpc.aio.AioRpcError | None = None

    async def batch(self, run: str, first: int, texts: list[str]) -> None:
        events = [
            run_pb2.RunEvent(seq=first + n, kind=run_pb2.EVENT_KIND_MESSAGE, text=text) for n, text in enumerate(texts)
        ]
        batch = run_pb2.OutputBatch(
            run_id=run,
            first=first,
            count=len(texts),
            events=run_pb2.RunEvents(events=events).SerializeToString(),
        )
        await self.call.write(fleet_pb2.UploadRequest(batch=batch))

    async def answer(self, id: str, value: Any, *, cut: int = 7, error: str = "") -> None:
        """Answer a question in parts of *cut* bytes."""
        text = json.dumps(value).encode()
        parts = [text[at : at + cut] for at in range(0, len(text), cut)] or [b""]
        for number, part in enumerate(parts, 1):
            answer = fleet_pb2.Answer(instruction_id=id, part=part, last=number == len(parts), error=error)
            await self.call.write(fleet_pb2.UploadRequest(answer=answer))

    async def read(self) -> None:
        try:
            async for response in self.call:
                if response.WhichOneof("kind") == "watermark":
                    self.watermarks[response.watermark.run_id] = response.watermark.next
                else:
                    self.answered.append(response.answered)
        except grpc.aio.AioRpcError as error:
            self.error = error


def run(id: str, state: str = "RUNNING", revision: int = 1, **fields: Any) -> run_pb2.Run:
    fields.setdefault("repo", "example.org/mill")
    fields.setdefault("agent", "claude")
    fields.setdefault("owner", "ana")
    fields.setdefault("path", "/home/ana/mill")
    return run_pb2.Run(
        id=id, attempt=1, revision=revision, state=run_pb2.RunState.Value(f"RUN_STATE_{state}"), **fields
    )


def approval(
    id: str, run_id: str, state: str = "OPEN", revision: int = 1, command: str = "make", **fields: Any
) -> approval_pb2.Approval:
    from switchboard.domain.digest import canonical, digest

    asked = {"command": command}
    fields.setdefault("expires_in_ms", 8 * 3600 * 1000)
    fields.setdefault("digest", digest(run=run_id, attempt=1, kind="tool", tool="Bash", input=asked, cwd="/src"))
    fields.setdefault("input_json", canonical(asked))
    fields.setdefault("edits_input", True)
    return approval_pb2.Approval(
        id=id,
        run_id=run_id,
        attempt=1,
        kind=approval_pb2.QUESTION_KIND_TOOL,
        tool="Bash",
        cwd="/src",
        title=f"run {command}",
        state=approval_pb2.ApprovalState.Value(f"APPROVAL_STATE_{state}"),
        revision=revision,
        **fields,
    )
