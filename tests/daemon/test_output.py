"""Output on its way out of a run: masked before it is numbered, numbered before it is sent, and sent again when asked for."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.clocks import StillClock
from helpers.eventually import eventually
from switchboard_rpc.v1 import run_pb2

from daemon.clock import SystemClock
from daemon.disk import DiskFull
from daemon.domain.agent import Output, OutputKind
from daemon.domain.outbox import Quota
from daemon.domain.redaction import Redactor
from daemon.journal import Journal
from daemon.link.upload import Batch
from daemon.output import Outputs
from daemon.reports import Reports
from daemon.spool import WINDOW_MS, Spool

SECRET = "tr0ub4dor-and-3-and-more"


@dataclass
class Desk:
    home: Path
    clock: StillClock | SystemClock
    outputs: Outputs
    spool: Spool
    reports: Reports
    poked: list[str]

    def texts(self, run: str = "r1") -> list[str]:
        return [run_pb2.RunEvent.FromString(data).text for _, data in self.spool.read(run, 1, 1_000, 1 << 24)]

    def send(self, run: str = "r1") -> list[Batch]:
        """Take everything that is to be sent; the server has it all."""
        sent = []
        while batch := self.outputs.batch(run):
            sent.append(batch)
            self.outputs.answered(run, batch, batch.first + batch.count)
        return sent


def desk_in(home: Path, clock: StillClock | SystemClock, spool_bytes: int | None = None) -> Desk:
    redactor = Redactor([SECRET])
    reports = Reports(Journal(home, clock), redactor)
    spool = Spool(home, clock, spool_bytes)
    outputs = Outputs(spool, redactor, clock, Quota(), reports)
    poked: list[str] = []
    outputs.poke = poked.append
    return Desk(home, clock, outputs, spool, reports, poked)


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    made = desk_in(tmp_path, SystemClock())
    made.outputs.open("r1", 1, "full")
    return made


def message(text: str, block: str = "b1") -> Output:
    return Output(OutputKind.MESSAGE, text, block=block)


async def test_a_secret_that_is_cut_over_pieces_is_masked(desk: Desk) -> None:
    for at in range(0, len(SECRET), 5):
        desk.outputs.say("r1", message(SECRET[at : at + 5]))
    desk.outputs.say("r1", message(" is it\nand "))
    desk.outputs.say("r1", Output(OutputKind.TOOL_CALL, tool="Bash", detail={"command": f"echo {SECRET}"}))
    desk.outputs.rest("r1")

    everything = b"".join(data for _, data in desk.spool.read("r1", 1, 1_000, 1 << 24))
    assert SECRET.encode() not in everything
    assert "«redacted:value» is it\n" in "".join(desk.texts())
    assert desk.texts()[-2:] == ["and ", ""]


@pytest.mark.parametrize("next", [1 << 39, (1 << 64) - 1])
async def test_a_watermark_where_no_run_can_be_changes_nothing(desk: Desk, next: int) -> None:
    desk.outputs.say("r1", Output(OutputKind.NOTICE, "one"))
    batch = desk.outputs.batch("r1")
    assert batch is not None

    desk.outputs.answered("r1", batch, next)
    desk.outputs.watermarks({"r1": next}, fresh_store=False)

    desk.outputs.say("r1", Output(OutputKind.NOTICE, "two"))
    desk.outputs.rest("r1")
    desk.outputs.watermarks({"r1": 1}, fresh_store=False)
    assert [(batch.first, batch.count) for batch in desk.send()] == [(1, 2)]
    assert desk.texts() == ["one", "two"]


async def test_an_event_is_in_the_spool_before_anybody_is_told(desk: Desk) -> None:
    desk.outputs.say("r1", message("one\n"))

    await eventually(lambda: desk.poked == ["r1"])
    assert desk.spool.range("r1") == (1, 2)


async def test_the_next_attempt_and_the_next_daemon_go_on_with_the_numbers(tmp_path: Path, desk: Desk) -> None:
    desk.outputs.say("r1", message("one\n"))
    desk.outputs.rest("r1")
    desk.outputs.open("r1", 2, "full")
    desk.outputs.say("r1", message("two\n"))
    desk.outputs.rest("r1")
    desk.spool.close()

    again = desk_in(tmp_path, SystemClock())
    again.outputs.open("r1", 3, "full")
    again.outputs.say("r1", message("three\n"))
    again.outputs.rest("r1")

    assert again.texts() == ["one\n", "two\n", "three\n"]
    rows = again.spool.read("r1", 1)
    assert [run_pb2.RunEvent.FromString(data).attempt for _, data in rows] == [1, 2, 3]
    assert again.outputs.pending() == ["r1"]


async def test_a_server_that_stands_elsewhere_is_sent_from_there(desk: Desk) -> None:
    for n in range(5):
        desk.outputs.say("r1", message(f"{n}\n", f"b{n}"))
    desk.outputs.rest("r1")
    desk.send()
    assert desk.outputs.pending() == []

    desk.outputs.watermarks({"r1": 3}, fresh_store=False)
    assert [batch.first for batch in desk.send()] == [3]
    desk.outputs.watermarks({}, fresh_store=False)
    assert desk.outputs.pending() == []
    desk.outputs.watermarks({}, fresh_store=True)
    assert [batch.first for batch in desk.send()] == [1]
    # It has numbers that this machine lost with its power: they are never given twice.
    desk.outputs.watermarks({"r1": 9}, fresh_store=False)
    desk.outputs.say("r1", message("later\n", "b9"))
    desk.outputs.rest("r1")
    assert [batch.first for batch in desk.send()] == [9]


async def test_what_nobody_holds_any_more_is_one_event_that_says_so(desk: Desk) -> None:
    for n in range(5):
        desk.outputs.say("r1", message(f"{n}\n", f"b{n}"))
    desk.outputs.rest("r1")
    desk.spool.purge("r1")
    desk.outputs.say("r1", message("after\n", "b9"))
    desk.outputs.rest("r1")

    gone, after = desk.send()
    assert (gone.first, gone.count, after.first) == (1, 5, 6)
    (event,) = [run_pb2.RunEvent.FromString(data) for data in gone.events]
    assert event.kind == run_pb2.EVENT_KIND_GAP
    assert "events 1 to 5 are lost" in event.text


async def test_a_full_spool_is_told_and_what_it_did_not_take_is_counted(tmp_path: Path) -> None:
    desk = desk_in(tmp_path / "small", SystemClock(), spool_bytes=262_144)
    desk.outputs.open("r1", 1, "full")
    told: list[str] = []
    desk.reports.on_full = told.append
    for n in range(40):
        desk.outputs.say("r1", message("x" * 20_000 + "\n", f"b{n}"))
    desk.outputs.rest("r1")
    await eventually(lambda: told)

    low, next = desk.spool.range("r1")
    assert low == 1
    assert next < 40

    def fill() -> None:
        for _ in range(10_000):
            desk.outputs.try_disk()
            desk.spool.append("r1", [(desk.spool.range("r1")[1], b"x" * 10_000)])

    with pytest.raises(DiskFull, match="cannot be written"):
        fill()


async def test_the_output_of_an_ended_run_is_let_go_when_the_server_has_long_had_it(tmp_path: Path) -> None:
    clock = StillClock()
    desk = desk_in(tmp_path / "d", clock)
    desk.outputs.open("r1", 1, "full")
    desk.outputs.say("r1", message("one\n"))
    desk.outputs.rest("r1")
    desk.outputs.let_go({"r1"}, set())
    assert desk.texts() == ["one\n"], "nobody has it yet"
    desk.send()
    clock.pass_ms(WINDOW_MS + 1)
    desk.outputs.let_go({"r1"}, {"r1"})
    assert desk.texts() == ["one\n"], "it is alive"

    desk.outputs.let_go({"r1"}, set())
    assert desk.spool.range("r1") == (2, 2)
    desk.outputs.let_go(set(), set())
    assert desk.spool.runs() == []
