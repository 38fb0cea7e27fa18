"""Whatever order sends, answers, rewinds and crashes come in, the server's stream is the spool's events, each once, in order."""

import shutil
import tempfile
from pathlib import Path

from helpers.clocks import StillClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from daemon.domain.agent import Output, OutputKind
from daemon.domain.outbox import Outbox, Quota
from daemon.spool import Spool

RUN = "r1"


class Server:
    """The store function of the contract: gap, repeat, overlap, or appended."""

    def __init__(self) -> None:
        self.stream: list[bytes] = []

    @property
    def next(self) -> int:
        return len(self.stream) + 1

    def take(self, first: int, batch: list[bytes]) -> int:
        if first == self.next:
            self.stream += batch
        return self.next


class Delivery(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="spool"))
        self.clock, self.server = StillClock(), Server()
        self.numbered: dict[int, bytes] = {}  # by an observer: every event that was ever spooled
        self.said = 0
        self.wire: list[tuple[int, list[bytes]]] = []
        self.answers: list[tuple[int, int, int]] = []
        self.open()

    def open(self) -> None:
        # The window is as long as the test, so that a server which lost data can always be refilled.
        self.spool = Spool(self.home, self.clock, window_ms=10**12)
        _, next = self.spool.range(RUN)
        self.box = Outbox(next=next, quota=Quota(rate=2000, burst=4000, total=10**9), at=self.clock.boot)
        self.wire, self.answers = [], []
        self.box.rewind(self.server.next)

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.spool.close()
            shutil.rmtree(self.home)

    @rule(count=st.integers(1, 60), size=st.integers(1, 300))
    def the_agent_speaks(self, count: int, size: int) -> None:
        for _ in range(count):
            self.said += 1
            text = f"{self.said} " + "x" * size
            self.box.take(Output(OutputKind.MESSAGE, text), at=self.clock.boot, wall_ms=1, attempt=1)

    @rule(ms=st.integers(1, 500))
    def time_passes(self, ms: int) -> None:
        self.clock.pass_ms(ms)

    @rule(fails=st.booleans())
    def the_batch_is_spooled(self, fails: bool) -> None:
        batch = self.box.flush(at=self.clock.boot, wall_ms=1, attempt=1)
        rows = [(event.seq, event.text.encode()) for event in batch]
        if fails:
            self.box.unspooled(batch)
        else:
            self.spool.append(RUN, rows)
            self.numbered.update(rows)

    @rule(count=st.integers(1, 20))
    def a_batch_is_sent(self, count: int) -> None:
        rows = self.spool.read(RUN, self.box.next_to_send, count)
        if rows:
            assert rows[0][0] == self.box.next_to_send
            self.wire.append((rows[0][0], [data for _, data in rows]))
            self.box.sent(rows[-1][0] + 1)

    @rule()
    def a_batch_arrives(self) -> None:
        if self.wire:
            first, batch = self.wire.pop(0)
            self.answers.append((first, len(batch), self.server.take(first, batch)))

    @rule()
    def an_answer_arrives(self) -> None:
        if self.answers:
            self.box.answered(*self.answers.pop(0))
            self.spool.drop(RUN, self.box.acked)

    @rule()
    def the_connection_breaks(self) -> None:
        self.wire, self.answers = [], []
        self.box.rewind(self.server.next)

    @rule(back=st.integers(0, 30), noticed=st.booleans())
    def the_server_loses_data(self, back: int, noticed: bool) -> None:
        del self.server.stream[max(0, len(self.server.stream) - back) :]
        if noticed:
            self.the_connection_breaks()

    @rule(closed=st.booleans())
    def the_daemon_dies(self, closed: bool) -> None:
        # Killed: the files are taken as they lie, the log not folded in.
        if closed:
            self.spool.close()
        else:
            home = Path(tempfile.mkdtemp(prefix="spool"))
            for path in self.home.iterdir():
                shutil.copy2(path, home / path.name)
            self.spool.close()
            shutil.rmtree(self.home)
            self.home = home
        self.open()

    @invariant()
    def the_stream_is_what_was_spooled(self) -> None:
        if hasattr(self, "server"):
            assert self.server.stream == [self.numbered[seq] for seq in range(1, self.server.next)]
            assert sorted(self.numbered) == list(range(1, len(self.numbered) + 1))
            assert self.spool.range(RUN)[1] == len(self.numbered) + 1 == self.box.next

    @rule()
    def everything_arrives_in_the_end(self) -> None:
        # One more word is enough for either side to notice what the other lacks.
        self.clock.pass_ms(60_000)
        self.box.take(Output(OutputKind.NOTICE, "the last"), at=self.clock.boot, wall_ms=1, attempt=1)
        self.the_batch_is_spooled(fails=False)
        for _ in range(2 * len(self.numbered) + 100):
            self.a_batch_is_sent(7)
            self.a_batch_arrives()
            self.an_answer_arrives()
        assert len(self.server.stream) == len(self.numbered)


Delivery.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestDelivery = Delivery.TestCase
