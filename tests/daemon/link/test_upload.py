"""Output on its way up: each event once and in order, whatever is lost, refused or asked for again."""

import json

from helpers.eventually import eventually
from helpers.wire import Wire

from daemon.domain.agent import OutputKind
from daemon.domain.outbox import Event
from daemon.translate import output as words


def events(first: int, count: int) -> list[bytes]:
    return [
        words.event(Event(0, 1, OutputKind.MESSAGE, f"line {seq}\n", seq=seq)) for seq in range(first, first + count)
    ]


def seqs(wire: Wire, run: str = "r1") -> list[int]:
    return [event.seq for event in wire.switch.events.get(run, [])]


async def test_events_arrive_once_and_in_order(wire: Wire) -> None:
    for run in ("r1", "r2", "r3"):
        wire.source.events[run] = events(1, 250)
        wire.upload.poke(run)

    await eventually(lambda: all(seqs(wire, run) == list(range(1, 251)) for run in ("r1", "r2", "r3")), 20)
    await eventually(lambda: wire.source.acked == {"r1": 251, "r2": 251, "r3": 251})
    assert wire.switch.events["r1"][6].text == "line 7\n"


async def test_what_was_not_taken_is_sent_again_and_does_not_hold_others_up(wire: Wire) -> None:
    wire.switch.take_batches = False
    wire.source.events["r1"] = events(1, 30)
    wire.upload.poke("r1")
    await eventually(lambda: wire.source.acked.get("r1") == 1)

    wire.switch.take_batches = True
    await eventually(lambda: seqs(wire) == list(range(1, 31)))


async def test_a_server_that_lost_data_is_sent_it_again(wire: Wire) -> None:
    wire.source.events["r1"] = events(1, 30)
    wire.upload.poke("r1")
    await eventually(lambda: seqs(wire) == list(range(1, 31)))
    wire.switch.next["r1"], wire.switch.events["r1"] = 11, wire.switch.events["r1"][:10]

    wire.source.events["r1"] += events(31, 5)
    wire.upload.poke("r1")

    await eventually(lambda: seqs(wire) == list(range(1, 36)))


async def test_a_cut_upload_goes_on_where_the_server_stands(wire: Wire) -> None:
    wire.source.events["r1"] = events(1, 100)
    wire.upload.poke("r1")
    await eventually(lambda: len(seqs(wire)) >= 10)
    wire.control.again()

    await eventually(lambda: seqs(wire) == list(range(1, 101)), 20)


async def test_answers_arrive_whole_in_parts_and_refusals_as_one_sentence(wire: Wire) -> None:
    await eventually(lambda: wire.control.attached.is_set())
    body = json.dumps({"files": ["ä" * 400_000]}, ensure_ascii=False).encode()
    wire.upload.answer("i1", body)
    wire.upload.answer("i2", b"", "this machine holds no run r9")
    wire.upload.answer("i3", b"{}")

    await eventually(lambda: len(wire.switch.answers) == 3)
    assert wire.switch.answers["i1"] == (body, "")
    assert wire.switch.answers["i2"] == (b"", "this machine holds no run r9")
    await eventually(lambda: not wire.upload._answers)


def test_a_batch_is_what_a_serialised_list_of_events_is() -> None:
    from switchboard_rpc.v1 import run_pb2

    rows = [words.event(Event(1, 1, OutputKind.MESSAGE, "x" * size, seq=size)) for size in (1, 130, 20_000, 70_000)]
    message = words.batch("r1", 1, 4, rows)

    found = run_pb2.RunEvents.FromString(message.batch.events)
    assert [len(event.text) for event in found.events] == [1, 130, 20_000, 70_000]
    assert found == run_pb2.RunEvents(events=[run_pb2.RunEvent.FromString(row) for row in rows])
