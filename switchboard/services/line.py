"""One attached machine: what it is due to be told. A state rather than a queue, so that a slow machine costs no memory."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from switchboard.domain.errors import SwitchboardError
from switchboard.domain.instruction import Instruction
from switchboard.services.order_book import TOLD_NOTHING

ACK_LAG = 0.02  # seconds that an acknowledgement waits for others, or for a message that carries it along


@dataclass(frozen=True, slots=True)
class OrdersDue:
    """The orders that this line was not told yet, as they stand when they are written."""


@dataclass(frozen=True, slots=True)
class BeatDue:
    """An answer to a heartbeat."""


@dataclass(frozen=True, slots=True)
class AckDue:
    """Nothing but the number of the newest report that is stored."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """The last word on this line: *error* ends the stream."""

    reason: str
    retry: bool
    error: SwitchboardError


Due = OrdersDue | BeatDue | AckDue | Instruction | Fenced


class Line:
    def __init__(
        self, machine: str, name: str, boot_epoch: str, connection: int, pending: Callable[[], list[Instruction]]
    ) -> None:
        self.machine = machine
        self.name = name
        self.boot_epoch = boot_epoch
        self.connection = connection
        self.heard_at = asyncio.get_running_loop().time()
        self.strange_beats = 0  # heartbeats that named another store than ours
        self._pending = pending
        self._sent: set[str] = set()
        self._orders = self._beat = False
        self._instructions = True
        self._fenced: Fenced | None = None
        self._closed: SwitchboardError | None = None
        self._wake = asyncio.Event()
        self._stored: set[int] = set()
        self._acked_sent = 0
        self._ack = self._ack_waits = False
        self.acked = 0  # every report up to this one is stored
        self.orders_told = TOLD_NOTHING

    def orders_due(self, *, all: bool = False) -> None:
        """Tell what is new of the orders; *all* of them when the machine shows that it lacks what it was told."""
        if all:
            self.orders_told = TOLD_NOTHING
        self._orders = True
        self._wake.set()

    def beat_due(self) -> None:
        self._beat = True
        self._wake.set()

    def instructions_due(self) -> None:
        self._instructions = True
        self._wake.set()

    def settled(self, instruction: str) -> None:
        """Forget that an instruction was told: should it be ordered again, it is told again."""
        self._sent.discard(instruction)

    def stored(self, report: int, *, hurry: bool = True) -> None:
        """Note a report as durable; reports may be stored in any order. Without *hurry* the next message carries the word."""
        self._stored.add(report)
        while self.acked + 1 in self._stored:
            self.acked += 1
            self._stored.discard(self.acked)
        if hurry and self.acked > self._acked_sent and not self._ack_waits:
            self._ack_waits = True
            asyncio.get_running_loop().call_later(ACK_LAG, self._ack_due)

    def _ack_due(self) -> None:
        self._ack_waits = False
        self._ack = True
        self._wake.set()

    def fence(self, fenced: Fenced) -> None:
        self._fenced = self._fenced or fenced
        self._wake.set()

    def close(self, error: SwitchboardError) -> None:
        """End the stream without a word; the machine comes again."""
        self._closed = self._closed or error
        self._wake.set()

    @property
    def ending(self) -> bool:
        return self._fenced is not None or self._closed is not None

    async def next(self) -> Due:
        """Wait for what is due; orders come before everything else. Raises what closed the line."""
        while True:
            if self._closed is not None:
                raise self._closed
            if self._fenced is not None:
                return self._fenced
            if self._orders:
                self._orders = False
                return OrdersDue()
            if self._beat:
                self._beat = False
                return BeatDue()
            if self._instructions:
                for instruction in self._pending():
                    if instruction.id not in self._sent:
                        self._sent.add(instruction.id)
                        return instruction
                self._instructions = False
            if self._ack:
                self._ack = False
                if self.acked > self._acked_sent:
                    return AckDue()
            self._wake.clear()
            await self._wake.wait()

    def told(self, acked: int) -> None:
        """Note the acknowledgement that the last message carried."""
        self._acked_sent = max(self._acked_sent, acked)
