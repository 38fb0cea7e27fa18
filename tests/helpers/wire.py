"""Two ends of a real wire: the link code of the daemon, and a scripted switchboard over mTLS."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from helpers.clocks import StillClock
from helpers.switch import Ports, Switch, serving

from daemon.clock import SystemClock
from daemon.domain.facts import RunRecord
from daemon.domain.instruction import AgentProgram, Fact, Held, Hello, Instruction, Welcome
from daemon.identity import Identity
from daemon.link import enrol
from daemon.link.control import Control
from daemon.link.upload import Batch, Upload


@dataclass
class Hands:
    """Remembers what the wire brought; what it says is what a test puts here."""

    facts: list[Fact] = field(default_factory=list)
    welcomes: list[Welcome] = field(default_factory=list)
    orders: list[Held] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    acks: list[Fact] = field(default_factory=list)
    on_disk: Held = field(default_factory=lambda: Held("", 0))

    def hello(self) -> Hello:
        return Hello(
            name="mill",
            version="1",
            boot_epoch="b1",
            platform="test",
            agents=(AgentProgram("claude", "2.1.330", "", True),),
            facts=tuple(self.facts),
            held=self.on_disk,
            spool={"r1": (1, 5)},
        )

    def welcomed(self, welcome: Welcome) -> None:
        self.welcomes.append(welcome)
        self.on_disk = Held(welcome.store_epoch, welcome.generation, welcome.orders)

    def ordered(self, held: Held) -> None:
        self.orders.append(held)
        self.on_disk = held

    def instructed(self, instruction: Instruction) -> None:
        self.instructions.append(instruction)

    def acked(self, fact: Fact) -> None:
        self.acks.append(fact)
        if fact in self.facts:
            self.facts.remove(fact)

    def pulses(self) -> Mapping[str, int]:
        return {"r1": 7}

    def held(self) -> tuple[str, int]:
        return self.on_disk.store_epoch, self.on_disk.generation


@dataclass
class Source:
    """Runs of numbered events, kept by their run's watermark."""

    events: dict[str, list[bytes]] = field(default_factory=dict)
    to_send: dict[str, int] = field(default_factory=dict)
    acked: dict[str, int] = field(default_factory=dict)

    def pending(self) -> list[str]:
        return [run for run, events in self.events.items() if self.to_send.get(run, 1) <= len(events)]

    def batch(self, run: str) -> Batch | None:
        first = self.to_send.get(run, 1)
        events = self.events.get(run, [])[first - 1 : first + 9]
        if not events:
            return None
        self.to_send[run] = first + len(events)
        return Batch(first, len(events), events)

    def answered(self, run: str, sent: Batch, next: int) -> None:
        self.acked[run] = next
        if next < sent.first + sent.count:
            self.to_send[run] = next


@dataclass
class Wire:
    switch: Switch
    ports: Ports
    identity: Identity
    hands: Hands
    control: Control
    source: Source
    upload: Upload
    home: Path

    def report(self, record: RunRecord) -> RunRecord:
        """Say something that is kept until it is acknowledged."""
        self.hands.facts.append(record)
        self.control.report(record)
        return record


@contextlib.asynccontextmanager
async def wired(tmp_path: Path, clock: StillClock | SystemClock | None = None) -> AsyncIterator[Wire]:
    switch = Switch(tmp_path / "ca")
    async with serving(switch) as ports:
        identity = Identity(tmp_path / "d")
        (tmp_path / "d").mkdir(mode=0o700, parents=True)
        clock = clock or SystemClock()
        await enrol.join(identity, ports.enroll_address, switch.token, "mill", clock, ports.fleet_address)
        hands, source = Hands(), Source()
        control = Control(identity, hands, clock)
        upload = Upload(identity, source, clock, control.attached)
        yield Wire(switch, ports, identity, hands, control, source, upload, tmp_path)
