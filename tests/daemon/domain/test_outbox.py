"""Numbers without gaps, a quota that tells what it dropped, and batches that go out in time."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.domain.agent import Output, OutputKind
from daemon.domain.outbox import FLUSH_EVENTS, FLUSH_MS, PIECE, Outbox, Quota, lost, pieces

SMALL = Quota(rate=1000, burst=2000, total=10_000)


def say(box: Outbox, text: str, at: int = 0, kind: OutputKind = OutputKind.MESSAGE) -> None:
    box.take(Output(kind, text), at=at, wall_ms=5, attempt=1)


def flush(box: Outbox, at: int = 0):
    return box.flush(at=at, wall_ms=5, attempt=1)


def close(box: Outbox, at: int = 0):
    return [event for batch in box.close(at=at, wall_ms=5, attempt=1) for event in batch]


def test_the_first_of_a_burst_goes_at_once_and_the_rest_together():
    box = Outbox()
    say(box, "one", at=0)
    assert [event.text for event in flush(box, at=0)] == ["one"]

    say(box, "two", at=5)
    say(box, "three", at=9)
    assert box.due_at() == FLUSH_MS
    assert flush(box, at=FLUSH_MS - 1) == ()
    assert [(event.seq, event.text) for event in flush(box, at=FLUSH_MS)] == [(2, "two"), (3, "three")]
    assert box.due_at() is None
    say(box, "after a rest", at=1000)
    assert len(flush(box, at=1000)) == 1


def test_fifty_events_do_not_wait():
    box = Outbox()
    say(box, "first")
    flush(box)
    for n in range(FLUSH_EVENTS + 3):
        say(box, str(n), at=1)
    assert [event.seq for event in flush(box, at=1)] == list(range(2, 52))
    assert flush(box, at=2) == ()
    assert [event.seq for event in flush(box, at=1 + FLUSH_MS)] == [52, 53, 54]


def test_an_event_says_all_that_the_wire_carries():
    box = Outbox(next=7, acked=4)
    box.take(Output(OutputKind.TOOL_CALL, "", "Bash", "b1", {"command": "ls é"}), at=0, wall_ms=99, attempt=2)
    (event,) = flush(box)

    assert (event.seq, event.at_ms, event.attempt, event.tool, event.block) == (7, 99, 2, "Bash", "b1")
    assert event.detail_json == '{"command":"ls é"}'
    assert (box.next, box.acked, box.next_to_send) == (8, 4, 4)


def test_a_flood_keeps_its_head_and_its_tail_and_counts_the_rest_in_one_gap():
    box = Outbox(quota=Quota(rate=1000, burst=20_000, total=1_000_000))
    for n in range(2000):
        say(box, f"line {n:06d} " + "x" * 100, at=0)
    out = []
    at = 0
    while (due := box.due_at()) is not None:
        at = max(at, due)
        out += flush(box, at=at)

    kinds = [event.kind for event in out]
    assert kinds.count(OutputKind.GAP) == 1
    gap = kinds.index(OutputKind.GAP)
    assert out[0].text.startswith("line 000000")
    assert out[-1].text.startswith("line 001999")
    assert json.loads(out[gap].detail_json)["events"] == 2000 - (len(out) - 1)
    assert [event.seq for event in out] == list(range(1, len(out) + 1))


def test_a_run_over_its_total_still_says_how_it_ended():
    box = Outbox(quota=SMALL)
    at = 0
    for n in range(3000):
        at += 100
        say(box, f"line {n:06d} " + "x" * 100, at=at)
    say(box, "", at=at, kind=OutputKind.TURN_END)
    out = close(box, at)

    assert out[-1].kind is OutputKind.TURN_END
    assert out[-2].text.startswith("line 002999")
    dropped = sum(json.loads(event.detail_json)["events"] for event in out if event.kind is OutputKind.GAP)
    assert dropped + sum(event.kind is OutputKind.MESSAGE for event in out) == 3000
    assert sum(event.size for event in out) < 60_000


def test_a_short_excess_is_late_and_not_lost():
    box = Outbox(quota=SMALL)
    for n in range(20):
        say(box, f"{n:02d}" + "x" * 100)
    out = [*flush(box), *close(box, 0)]

    assert [event.text[:2] for event in out] == [f"{n:02d}" for n in range(20)]
    assert OutputKind.GAP not in {event.kind for event in out}


def test_a_clock_that_goes_backwards_gives_nothing_away():
    box = Outbox(quota=SMALL, at=1000)
    for at in (1000, 10, 2_000, 5):
        for _ in range(100):
            say(box, "x" * 100, at=at)
    assert sum(event.size for event in flush(box, at=2_000)) <= 3000 + 200


@given(st.text(st.characters(), max_size=300), st.integers(1, 2000))
@settings(deadline=None, max_examples=60)
def test_long_text_is_cut_into_pieces_that_join_again(text, times):
    output = Output(OutputKind.TOOL_RESULT, text * times, "Bash", "b", {"exit_code": 1})
    out = list(pieces(output, 1, 1))
    whole = (text * times).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    assert "".join(event.text for event in out) == whole
    assert all(len(event.text.encode()) <= PIECE for event in out)
    assert out[0].detail_json == '{"exit_code":1}'
    assert all(event.detail_json == "" and event.block == "b" for event in out[1:])


def test_cuts_are_at_line_ends_where_there_are_some():
    out = list(pieces(Output(OutputKind.TOOL_RESULT, ("x" * 99 + "\n") * 3000), 1, 1))

    assert len(out) > 4
    assert all(event.text.endswith("\n") for event in out)


@pytest.mark.parametrize(
    ("detail", "kept"),
    [
        ({"command": "ls", "content": "y" * 1_000_000}, '"command":"ls"'),
        ({f"k{n}": "z" * 100 for n in range(10_000)}, "left_out"),
        ({"a": float("nan"), "b": {1, 2}, "c": "\ud800"}, '"a":"nan"'),
    ],
)
def test_a_detail_of_any_size_becomes_json_that_fits(detail, kept):
    (event,) = pieces(Output(OutputKind.TOOL_CALL, detail=detail), 1, 1)

    assert len(event.detail_json.encode()) <= PIECE
    assert kept in event.detail_json
    json.loads(event.detail_json)


def test_a_detail_without_end_is_left_out():
    nest: dict = {}
    for _ in range(100_000):
        nest = {"n": nest}
    (event,) = pieces(Output(OutputKind.UNKNOWN, detail=nest), 1, 1)

    assert "left_out" in event.detail_json


def test_an_answer_moves_the_watermark_or_sends_again():
    box = Outbox()
    for _ in range(10):
        say(box, "x")
    flush(box)
    box.sent(11)
    box.answered(1, 5, 6)
    assert (box.acked, box.next_to_send) == (6, 11)
    box.answered(6, 5, 3)
    assert (box.acked, box.next_to_send) == (3, 3)
    box.sent(7)
    box.answered(3, 4, 11)
    assert (box.acked, box.next_to_send) == (11, 11)


def test_a_server_that_is_ahead_is_never_contradicted():
    box = Outbox(next=5)
    box.rewind(9)
    say(box, "x")

    assert flush(box)[0].seq == 9
    assert box.next_to_send == 9


def test_what_the_disk_did_not_take_gives_its_numbers_back_and_is_counted():
    box = Outbox()
    for n in range(3):
        say(box, str(n))
    box.unspooled(flush(box))
    assert box.next == 1
    say(box, "after", at=100)
    out = flush(box, at=100)

    assert [event.kind for event in out] == [OutputKind.GAP, OutputKind.MESSAGE]
    assert json.loads(out[0].detail_json)["events"] == 3
    box.unspooled(out)
    say(box, "at last", at=200)
    assert json.loads(flush(box, at=200)[0].detail_json)["events"] == 4


def test_what_both_sides_lost_is_one_event():
    event = lost(3, 10, 1, 1)

    assert (event.seq, event.kind) == (3, OutputKind.GAP)
    assert event.text.startswith("events 3 to 9 are lost")


steps = st.lists(
    st.tuples(st.sampled_from(["say", "wait", "notice", "flush"]), st.integers(0, 3000)),
    max_size=60,
)


@given(steps)
@settings(deadline=None)
def test_numbers_have_no_gaps_and_every_event_is_there_or_counted(story):
    box, at, said, out = Outbox(quota=SMALL), 0, 0, []
    for step, n in story:
        if step == "say":
            say(box, "x" * n, at)
            said += 1
        elif step == "wait":
            at += n
        elif step == "notice":
            say(box, "n", at, OutputKind.NOTICE)
            said += 1
        else:
            out += flush(box, at)
    out += close(box, at)

    assert [event.seq for event in out] == list(range(1, len(out) + 1))
    gaps = [event for event in out if event.kind is OutputKind.GAP]
    assert len(out) - len(gaps) + sum(json.loads(gap.detail_json)["events"] for gap in gaps) == said
    assert box.due_at() is None
