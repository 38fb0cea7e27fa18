"""Stop orders as people give them, and what is left of them after every loss."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from helpers.eventually import eventually
from helpers.fleet import ANA, BEN, KIM, core, person
from helpers.valkey import ManualClock
from switchboard_rpc.v1 import stop_pb2

from switchboard.domain.errors import Conflict, Forbidden, IllegalTransition, Invalid, NotFound
from switchboard.domain.people import Role
from switchboard.domain.stop import Selector, Standing

EVERYTHING = Selector(all=True)


async def test_an_order_needs_a_reason_a_selector_and_the_right(store_url):
    async with core(store_url) as sb:
        with pytest.raises(Invalid, match="say why"):
            await sb.stops.issue(ANA, EVERYTHING, " ")
        with pytest.raises(Invalid, match="names nothing to stop"):
            await sb.stops.issue(ANA, Selector(), "x")
        with pytest.raises(Invalid, match="empty entry"):
            await sb.stops.issue(ANA, Selector(repos=("",)), "x")
        with pytest.raises(Invalid):
            await sb.stops.issue(ANA, Selector(repos=("x",) * 10_001), "x")
        with pytest.raises(Forbidden):
            await sb.stops.issue(person("zoe", Role.VIEWER), EVERYTHING, "x")
        assert sb.stops.orders() == []


async def test_the_same_click_gives_one_order(store_url):
    async with core(store_url) as sb:
        first = await sb.stops.issue(KIM, EVERYTHING, "x", request_id="click")
        again = await sb.stops.issue(KIM, EVERYTHING, "x", request_id="click")
        other = await sb.stops.issue(BEN, EVERYTHING, "x", request_id="click")
        assert first == again
        assert other.id != first.id
        assert other.generation > first.generation
        assert len(await sb.audited("order.issued")) == 2


async def test_lifting_is_for_the_author_and_for_leads_and_happens_once(store_url):
    async with core(store_url) as sb:
        order = await sb.stops.issue(BEN, EVERYTHING, "x")
        with pytest.raises(Forbidden):
            await sb.stops.lift(person("zoe", Role.REVIEWER), order.id, "x")
        with pytest.raises(Invalid, match="why it is lifted"):
            await sb.stops.lift(BEN, order.id, "")
        lifted = await sb.stops.lift(BEN, order.id, "over")
        assert (lifted.lifted_by, lifted.lift_reason) == ("ben", "over")
        assert lifted.generation > order.generation
        with pytest.raises(IllegalTransition):
            await sb.stops.lift(KIM, order.id, "again")
        with pytest.raises(NotFound):
            await sb.stops.lift(KIM, "o-none", "x")
        with pytest.raises(Conflict):
            await sb.stops.extend(KIM, order.id, datetime.now(UTC))


async def test_a_hold_is_asked_about_after_eight_hours_until_it_is_extended(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        order = await sb.stops.issue(KIM, EVERYTHING, "x")
        assert not sb.stops.review_due(order)
        clock.forward(timedelta(hours=8))
        assert sb.stops.review_due(order)
        await sb.deadlines._review()
        await sb.deadlines._review()
        assert [entry.subject for entry in await sb.audited("order.review-due")] == [order.id]
        extended = await sb.stops.extend(KIM, order.id, clock.now() + timedelta(hours=2))
        assert not sb.stops.review_due(extended)


async def test_stopping_one_run_holds_nobody_back(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.run("r-1")
            order = await sb.stops.stop_run(BEN, "r-1", "wrong branch")
            assert (order.hold, order.expected) == (False, {"r-1": mill.id})
            await stream.run("r-1", "STOPPED", 2)
            with pytest.raises(Conflict, match="is stopped already"):
                await sb.stops.stop_run(BEN, "r-1", "again")
            with pytest.raises(NotFound):
                await sb.stops.stop_run(BEN, "r-0", "x")
            await sb.runs.resume(BEN, "r-1")


async def test_a_run_that_its_machine_calls_over_is_not_shown_as_ended_before_its_receipt(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.run("r-1")
            order = await sb.stops.issue(KIM, EVERYTHING, "x")
            await stream.run("r-1", "SUCCEEDED", 2)
            assert [row.standing for row in sb.stops.status(order.id).rows] == [Standing.UNPROVEN]


async def test_orders_of_a_lost_store_come_back_from_this_replicas_disk(store_url, store, tmp_path):
    async with core(store_url, tmp_path) as sb:
        order = await sb.stops.issue(KIM, EVERYTHING, "x")
        lifted = await sb.stops.issue(KIM, EVERYTHING, "y")
        await sb.stops.lift(KIM, lifted.id, "over")
    await store.client.call("FLUSHALL", again=True)
    async with core(store_url, tmp_path) as sb:
        found = {o.id: o.lifted for o in await sb.store.orders.all()}
        assert found == {order.id: False, lifted.id: True}
        epoch, generation, orders = sb.stops.order_set()
        assert generation >= max(o.generation for o in orders) > 0
        assert epoch == await sb.store.epochs.epoch()


async def test_an_order_that_the_store_forgot_alone_is_put_back(store_url):
    """As after a fail-over that lost one write: the epoch is the same."""
    async with core(store_url) as sb:
        order = await sb.stops.issue(KIM, EVERYTHING, "x")
        await sb.store.orders.delete(order.id)
        await eventually(lambda: sb.projection.order(order.id) is None)
        await sb.stops.reassert_journal()
        assert (await sb.store.orders.get(order.id)).reason == "x"


async def test_a_lift_that_the_store_forgot_is_put_back(store_url):
    async with core(store_url) as sb:
        order = await sb.stops.issue(KIM, EVERYTHING, "x")
        await sb.stops.lift(KIM, order.id, "over")
        await sb.store.orders.change(order.id, lambda _: order)
        await eventually(lambda: not sb.projection.order(order.id).lifted)
        await sb.stops.reassert_journal()
        assert sb.projection.order(order.id).lifted


async def test_an_order_of_one_replica_reaches_the_machines_of_another(store_url):
    async with core(store_url) as here, core(store_url) as there:
        mill = await here.machine()
        async with mill.attached() as stream:
            order = await there.stops.issue(KIM, EVERYTHING, "x")
            await eventually(lambda: [o.id for o in stream.orders.orders] == [order.id])
            await stream.seen()
            await eventually(lambda: there.stops.status(order.id).seen == 1)


async def test_a_hello_gets_an_order_of_which_this_replica_has_not_heard(store_url):
    async with core(store_url, deadlines=False) as here, core(store_url) as there:
        mill = await here.machine()
        here.projection._task.cancel()  # deaf: no change of the other reaches it
        order = await there.stops.issue(KIM, EVERYTHING, "x")
        async with mill.attached() as stream:
            assert [o.id for o in stream.welcome.orders.orders] == [order.id]


async def test_an_order_without_a_hold_is_done_with_when_all_its_receipts_are_in(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.run("r-1")
            done, open_ = await sb.stops.stop_run(BEN, "r-1", "x"), await sb.stops.stop_run(BEN, "r-1", "y")
            await stream.told(
                receipt=stop_pb2.Receipt(order_id=done.id, run_id="r-1", attempt=1, outcome=stop_pb2.OUTCOME_ENDED)
            )
            clock.forward(timedelta(days=2))
            await sb.stops.settle_done()
            assert sb.projection.order(done.id).lifted
            assert not sb.projection.order(open_.id).lifted


async def test_what_failed_and_then_ended_has_ended(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.run("r-1")
            order = await sb.stops.issue(KIM, EVERYTHING, "x")

            async def receipt(outcome, attempt=1):
                found = stop_pb2.Receipt(order_id=order.id, run_id="r-1", attempt=attempt, outcome=outcome)
                await stream.told(receipt=found)
                return sb.stops.status(order.id).rows[0].standing

            assert await receipt(stop_pb2.OUTCOME_FAILED) is Standing.FAILED
            assert await receipt(stop_pb2.OUTCOME_ENDED) is Standing.ENDED
            assert await receipt(stop_pb2.OUTCOME_FAILED) is Standing.ENDED
            assert await receipt(stop_pb2.OUTCOME_REFUSED, 2) is Standing.REFUSED


async def test_orders_that_were_lifted_long_ago_are_forgotten_and_nobody_brings_them_back(store_url, tmp_path):
    clock = ManualClock()
    async with core(store_url, tmp_path, clock=clock, deadlines=False) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.run("r-1")
            order = await sb.stops.issue(KIM, Selector(repos=("example.org/mill",)), "x")
            await stream.told(
                receipt=stop_pb2.Receipt(order_id=order.id, run_id="r-1", attempt=1, outcome=stop_pb2.OUTCOME_ENDED)
            )
            stands = await sb.stops.issue(KIM, EVERYTHING, "y")
            clock.forward(timedelta(days=40))
            await sb.stops.lift(KIM, order.id, "over")
            await sb.stops.forget_lifted()
            assert sb.stops.order(order.id).lifted, "the lift is young"
        async with mill.attached() as stream:
            held = stream.welcome.orders
            assert {o.id: o.lifted for o in held.orders} == {order.id: True, stands.id: False}
        clock.forward(timedelta(days=36))
        await sb.stops.forget_lifted()
        await sb.stops.reassert_journal()
        async with mill.attached(orders_held=held) as stream:
            assert [o.id for o in stream.welcome.orders.orders] == [stands.id]
        assert [o.id for o in await sb.store.orders.all()] == [stands.id]
        assert await sb.store.receipts.all() == []
    async with core(store_url, tmp_path, clock=clock) as sb:
        assert [o.id for o in sb.stops.orders()] == [stands.id]


async def test_a_machine_with_ten_thousand_orders_attaches(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        first = await sb.stops.issue(KIM, EVERYTHING, "x" * 500)
        for start in range(0, 10_000, 500):
            made = [
                replace(first, id=f"o-{n}", lifted=True, lifted_at=first.issued_at) for n in range(start, start + 500)
            ]
            await asyncio.gather(*(sb.store.orders.change(o.id, lambda _, o=o: o) for o in made))
        await eventually(lambda: len(sb.stops.orders()) == 10_001, within=30)
        async with mill.attached() as stream:
            assert len(stream.welcome.orders.orders) == 10_001
            held = stream.welcome.orders
        async with mill.attached(orders_held=held) as stream:
            await stream.run("r-1")


async def test_a_long_list_of_orders_is_handed_over_whole(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        for n in range(100):
            await sb.stops.issue(KIM, Selector(repos=(f"example.org/{n}",)), "x" * 500)
        async with mill.attached() as stream:
            assert len(stream.welcome.orders.orders) == 100
            assert len(sb.stops.orders()) == 100
