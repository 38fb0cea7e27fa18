"""Who is there: in memory at once, in the store now and then, and right again after every kind of loss."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from helpers.eventually import eventually
from helpers.fleet import ANA, KIM, approval, core, run
from helpers.valkey import ManualClock, own_valkey
from switchboard_rpc.v1 import enroll_pb2_grpc, fleet_pb2_grpc

from switchboard.domain.errors import Unavailable
from switchboard.domain.stop import Selector
from switchboard.rpc.server import serving
from switchboard.services.deadlines import Timer


async def test_heartbeats_are_written_down_every_ten_seconds_and_no_oftener(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.beat()  # which tells the orders that it holds: those are written down at once
            await eventually(lambda: sb.projection.machine(mill.id).orders_epoch)
            written = []
            sb.projection.listen(lambda noun, id: written.append(noun) if noun == "machine" else None)
            for _ in range(5):
                await stream.beat()
                await sb.presence.flush()
            assert written == []
            assert (clock.now() - sb.presence.machine(mill.id).seen_at) < timedelta(seconds=5)
            clock.forward(timedelta(seconds=10))
            await stream.beat()
            await eventually(lambda: written == ["machine"])


async def test_a_silent_run_is_told_from_a_live_one_on_the_same_machine(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill, forge = await sb.machine("mill"), await sb.machine("forge")

        def proof_ages():
            return {row.run.id: row.proof_age.total_seconds() for row in sb.runs.rows().rows}

        async with mill.attached() as stream, forge.attached() as rogue:
            await stream.run("r-1")
            await stream.run("r-2")
            clock.forward(timedelta(minutes=10))
            await rogue.beat(r_1=1, r_2=1)  # another machine's word on them proves nothing
            await eventually(lambda: rogue.beats)
            assert min(proof_ages().values()) > 590
            await stream.beat(r_1=250, r_2=90_000, r_0=1)
            await eventually(lambda: stream.beats)

            found = proof_ages()
            assert 0.25 <= found["r-1"] < 60
            assert 90 <= found["r-2"] < 150
            clock.forward(timedelta(minutes=5))
            await stream.beat(r_1=0)  # the keeper of the other one no longer answers
            await eventually(lambda: len(stream.beats) > 1)
            assert proof_ages()["r-1"] < 60
            assert 390 <= proof_ages()["r-2"] < 450
            await stream.run("r-1", "SUCCEEDED", 2)
            assert sb.presence._pulses.keys() == {"r-2"}


@pytest.mark.parametrize("days", [1, -1])
async def test_a_clock_that_jumps_by_a_day_loses_no_machine_no_question_and_no_order(store_url, days):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill = await sb.machine()
        async with mill.attached(runs=[run("r-1")], approvals=[approval("a-1", "r-1")]) as stream:
            await eventually(lambda: stream.acked == 1)
            clock.forward(timedelta(days=days))
            await asyncio.sleep(1.5)  # every short timer has come round under the other clock
            await stream.beat()
            assert sb.presence.attached(mill.id)
            assert sb.approvals.get("a-1").state == "open"
            order = await sb.stops.issue(KIM, Selector(all=True), "x")
            await eventually(lambda: [o.id for o in stream.orders.orders] == [order.id])
            # The machine's own clock tells how long the question is still open.
            await stream.told(approval=approval("a-1", "r-1", revision=2))
            await sb.approvals.vote(
                KIM, "a-1", verdict="deny", note="no", digest=sb.approvals.get("a-1").digest, vote_id="v-1"
            )
            await eventually(lambda: stream.instructions)


async def test_a_machine_of_a_replica_that_died_is_away_once_its_last_word_is_old(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill = await sb.machine()
        async with mill.attached():
            record = sb.projection.machine(mill.id)
            assert record.attached
        await eventually(lambda: not sb.projection.machine(mill.id).attached)
        await sb.store.machines.change(mill.id, lambda _: record)  # as it stands after kill -9
        await eventually(lambda: sb.projection.machine(mill.id).attached)
        assert sb.presence.attached(mill.id)
        clock.forward(timedelta(seconds=30))
        assert not sb.presence.attached(mill.id)
        with pytest.raises(Unavailable, match="is away since"):
            sb.presence.need(mill.id)


async def test_without_a_store_nobody_is_let_in_and_with_it_again_everybody_is():
    async with own_valkey() as valkey, core(valkey.url) as sb:
        mill, forge = await sb.machine("mill"), await sb.machine("forge")
        async with mill.attached() as stream:
            await valkey.kill()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                async with forge.attached():
                    pass
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(Unavailable):
                await sb.stops.issue(ANA, Selector(all=True), "x")
            await valkey.restart()

            async def let_in():
                try:
                    async with forge.attached():
                        return True
                except grpc.aio.AioRpcError:
                    return False

            await eventually(let_in)
            assert not stream.ended
            order = await sb.stops.issue(ANA, Selector(all=True), "x")
            await eventually(lambda: [o.id for o in stream.orders.orders] == [order.id])


async def test_a_timer_that_fails_keeps_its_time_and_stops_no_other(store_url):
    async with core(store_url, deadlines=False) as sb:
        acted = []

        async def fail():
            acted.append("fails")
            raise ValueError("a bug")

        async def act():
            acted.append("acts")

        sb.deadlines._timers = (Timer("bad", 0.01, fail), Timer("good", 0.01, act))
        running = asyncio.create_task(sb.deadlines.run())
        await eventually(lambda: acted.count("fails") > 2 and acted.count("acts") > 2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_port_that_is_taken_is_one_clear_sentence(store_url, tmp_path):
    async with core(store_url) as sb:
        with pytest.raises(Unavailable, match="cannot be listened on"):
            async with serving(
                fleet=("127.0.0.1", 0),
                enroll=("127.0.0.1", sb.ports.enroll),
                servicer=fleet_pb2_grpc.FleetServiceServicer(),
                identity=sb.identity,
                enrolment=enroll_pb2_grpc.EnrollServiceServicer(),
                authority=sb.authority,
            ):
                pass
