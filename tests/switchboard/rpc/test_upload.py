"""Output and answers: stored in order, acknowledged when durable, and never before."""

import asyncio
import json
from datetime import timedelta

import pytest
from helpers.eventually import eventually
from helpers.fleet import ANA, approval, core, run
from helpers.valkey import ManualClock, own_valkey
from hypothesis import given
from hypothesis import strategies as st
from switchboard_rpc.v1 import fleet_pb2, run_pb2

from switchboard.domain.errors import Conflict, Unavailable
from switchboard.rpc.translate import EVENT_KINDS, decode_events


async def texts(sb, run_id):
    events, next, _ = await sb.output.read(run_id, 1, 10_000)
    assert [event.seq for event in events] == list(range(1, next))
    return [event.text for event in events]


async def test_batches_are_stored_in_order_and_overlaps_end_up_once(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream, mill.uploading() as up:
            await stream.run("r-1")
            await up.batch("r-1", 1, ["a", "b"])
            await up.batch("r-1", 3, ["c"])
            await eventually(lambda: up.watermarks.get("r-1") == 4)
            await up.batch("r-1", 1, ["a", "b"])
            await up.batch("r-1", 3, ["c", "d"])
            await up.batch("r-1", 9, ["late"])
            await eventually(lambda: sb.output._store.next("r-1"))
            await up.batch("r-1", 4, ["d", "e"])
            await eventually(lambda: up.watermarks.get("r-1") == 6)

            assert await texts(sb, "r-1") == ["a", "b", "c", "d", "e"]


async def test_output_that_is_faster_than_its_announcement_waits_for_it(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream, mill.uploading() as up:
            await up.batch("r-1", 1, ["a"])
            await stream.run("r-1")
            await eventually(lambda: up.watermarks.get("r-1") == 2)


async def test_a_hundred_runs_upload_side_by_side(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        ids = [f"r-{n}" for n in range(100)]
        async with mill.attached(runs=[run(id) for id in ids]) as stream, mill.uploading() as up:
            await eventually(lambda: stream.acked == 1)
            for first in range(1, 101, 10):
                for id in ids:
                    await up.batch(id, first, [f"{id} {first + n}" for n in range(10)])
            await eventually(lambda: [up.watermarks.get(id) for id in ids] == [101] * 100, within=30)

            for id in ids:
                assert await texts(sb, id) == [f"{id} {n}" for n in range(1, 101)]


async def test_the_store_goes_away_and_comes_back_and_no_acknowledged_event_is_lost():
    async with own_valkey() as valkey, core(valkey.url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream, mill.uploading() as up:
            await stream.run("r-1")
            await up.batch("r-1", 1, ["a"])
            await eventually(lambda: up.watermarks.get("r-1") == 2)
            await valkey.kill()
            await up.batch("r-1", 2, ["b"])
            number = await stream.send(run=run("r-1", "IDLE", 2))
            await asyncio.sleep(0.3)
            assert up.watermarks["r-1"] == 2
            assert stream.acked < number
            await valkey.restart()

            await eventually(lambda: up.watermarks.get("r-1") == 3 and stream.acked >= number, within=30)

            assert await texts(sb, "r-1") == ["a", "b"]
            assert sb.projection.run("r-1").state == "idle"


async def test_a_welcome_says_from_where_to_send_each_run(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream, mill.uploading() as up:
            await stream.run("r-1")
            await up.batch("r-1", 1, ["a", "b"])
            await eventually(lambda: up.watermarks.get("r-1") == 3)
        spool = [
            fleet_pb2.SpoolRange(run_id="r-1", low=1, next=5),
            fleet_pb2.SpoolRange(run_id="r-2", low=1, next=2),
        ]
        async with mill.attached(spool=spool) as stream:
            found = {w.run_id: w.next for w in stream.welcome.watermarks}
            assert found == {"r-1": 3, "r-2": 1}


async def test_a_foreign_spool_moves_no_watermark(store_url):
    async with core(store_url) as sb:
        mill, forge = await sb.machine("mill"), await sb.machine("forge")
        async with mill.attached() as stream:
            await stream.run("r-1")
        async with forge.attached(spool=[fleet_pb2.SpoolRange(run_id="r-1", low=500, next=501)]) as rogue:
            assert list(rogue.welcome.watermarks) == []
        assert await sb.store.output.next("r-1") == 1


async def test_a_question_is_answered_in_parts(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream, mill.uploading() as up:
            asking = asyncio.create_task(sb.queries.ask(mill.id, {"diff": {"run_id": "r-1"}}))
            await eventually(lambda: stream.instructions)
            assert stream.instructions[0].query.diff.run_id == "r-1"
            answer = {"files": [{"path": "ä" * 100}], "count": 1}
            await up.answer(stream.instructions[0].id, answer)

            assert await asking == answer
            await eventually(lambda: up.answered == [stream.instructions[0].id])


async def test_a_question_that_a_machine_cannot_answer_is_its_sentence(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream, mill.uploading() as up:
            asking = asyncio.create_task(sb.queries.ask(mill.id, {"safety": {"verb": "list"}}))
            await eventually(lambda: stream.instructions)
            await up.answer(stream.instructions[0].id, None, error="no safety copy s-1")
            with pytest.raises(Conflict, match="no safety copy s-1"):
                await asking


async def test_a_question_to_a_silent_or_absent_machine_is_unavailable(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        with pytest.raises(Unavailable, match="is away"):
            await sb.queries.ask(mill.id, {"diff": {"run_id": "r-1"}})
        async with mill.attached():
            with pytest.raises(Unavailable, match="did not answer within"):
                await sb.queries.ask(mill.id, {"diff": {"run_id": "r-1"}}, 0.2)


async def test_another_machine_cannot_answer(store_url):
    async with core(store_url) as sb:
        mill, forge = await sb.machine("mill"), await sb.machine("forge")
        async with mill.attached() as stream, forge.attached(), forge.uploading() as rogue, mill.uploading() as up:
            asking = asyncio.create_task(sb.queries.ask(mill.id, {"diff": {"run_id": "r-1"}}))
            await eventually(lambda: stream.instructions)
            await rogue.answer(stream.instructions[0].id, {"forged": True})
            await eventually(lambda: sb.audited("report.refused"))
            await up.answer(stream.instructions[0].id, {"true": True})

            assert await asking == {"true": True}


async def test_a_question_asked_at_one_replica_is_answered_through_another(store_url):
    async with core(store_url) as here, core(store_url) as there:
        mill = await here.machine()
        async with mill.attached() as stream, mill.uploading() as up:
            await eventually(lambda: there.presence.attached(mill.id))
            asking = asyncio.create_task(there.queries.ask(mill.id, {"diff": {"run_id": "r-1"}}))
            await eventually(lambda: stream.instructions)
            await up.answer(stream.instructions[0].id, {"files": []})

            assert await asking == {"files": []}


@given(st.binary(max_size=300))
def test_any_bytes_decode_to_events(batch):
    for event in decode_events(batch):
        assert isinstance(event.text, str)


def test_events_keep_what_they_hold_and_an_unknown_kind_is_told_as_such():
    events = run_pb2.RunEvents(
        events=[
            run_pb2.RunEvent(seq=1, at_ms=5, kind=kind, text="ä", tool="Bash", block="b", detail_json='{"a":1}')
            for kind in [*EVENT_KINDS, 99]
        ]
        + [run_pb2.RunEvent(seq=2, kind=1, detail_json="{"), run_pb2.RunEvent(seq=3, kind=1, detail_json="[1]")]
    )
    found = decode_events(events.SerializeToString())
    assert [event.kind for event in found[:-3]] == list(EVENT_KINDS.values())
    assert found[-3].kind == "unknown"
    assert [dict(event.detail) for event in found[-3:]] == [{"a": 1}, {"unreadable": "{"}, {"value": [1]}]
    assert json.loads(json.dumps(found[0].detail)) == {"a": 1}


async def test_a_purge_holds_for_a_machine_that_was_away_and_still_has_everything(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock, retention=timedelta(days=7)) as sb:
        mill = await sb.machine()
        secret = {"prompt": "my secret plan", "session_id": "s-1", "scope": ["secret/**"]}
        async with mill.attached() as stream, mill.uploading() as up:
            await stream.run("r-1", **secret)
            await up.batch("r-1", 1, ["a"])
            await eventually(lambda: up.watermarks.get("r-1") == 2)
            await stream.run("r-1", "INTERRUPTED", 2, **secret)
        await eventually(lambda: not sb.presence.attached(mill.id))
        await sb.runs.purge(ANA, "r-1", "it held a key")
        clock.forward(timedelta(days=20))  # longer than an ended run is kept
        await sb.runs.forget_ended(timedelta(days=7))

        again = {
            "runs": [run("r-1", "INTERRUPTED", 5, **secret)],
            "approvals": [approval("a-1", "r-1", "WITHDRAWN", revision=2)],
            "spool": [fleet_pb2.SpoolRange(run_id="r-1", low=1, next=4)],
        }
        async with mill.attached(**again) as stream, mill.uploading() as up:
            assert list(stream.welcome.watermarks) == []
            await eventually(lambda: stream.acked == 1)
            await up.batch("r-1", 1, ["a", "b", "c"])
            await eventually(lambda: up.watermarks.get("r-1") == 4)  # it may let go of them
            known = sb.projection.run("r-1")
            assert (known.prompt, known.session_id, known.scope, known.reason) == ("", "", (), "purged")
            assert (await sb.output.read("r-1", 1, 10))[0] == []
            with pytest.raises(Conflict, match="was purged"):
                await sb.runs.resume(ANA, "r-1")
            (purge,) = stream.instructions
            report = fleet_pb2.InstructionReport(instruction_id=purge.id, state=fleet_pb2.REPORT_STATE_APPLIED)
            await stream.told(instruction_report=report)
            assert sb.projection.approvals() == []
            clock.forward(timedelta(days=8))
            await sb.runs.forget_ended(timedelta(days=7))
            assert sb.projection.runs() == []


async def test_purging_reaches_the_machine_and_leaves_no_content(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream, mill.uploading() as up:
            await stream.run("r-1", prompt="my secret plan")
            await up.batch("r-1", 1, ["a"])
            await eventually(lambda: up.watermarks.get("r-1") == 2)
            with pytest.raises(Conflict, match="stop it first"):
                await sb.runs.purge(ANA, "r-1", "it held a key")
            await stream.run("r-1", "STOPPED", 2, prompt="my secret plan")
            await sb.runs.purge(ANA, "r-1", "it held a key")

            await eventually(lambda: [i.WhichOneof("kind") for i in stream.instructions] == ["purge"])
            assert sb.projection.run("r-1").prompt == ""
            assert (await sb.output.read("r-1", 1, 10))[0] == []
