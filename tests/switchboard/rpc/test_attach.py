"""A machine's control stream, over real gRPC with mutual TLS and the real store."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from helpers.eventually import eventually
from helpers.fleet import ANA, KIM, Attachment, approval, core, run
from switchboard_rpc.v1 import approval_pb2, fleet_pb2, run_pb2, stop_pb2

from switchboard.domain.instruction import Kind
from switchboard.domain.run import RunState
from switchboard.domain.stop import Selector, Standing


async def test_a_machine_is_welcomed_and_its_run_is_in_the_list(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as stream:
            assert stream.welcome.machine_id == mill.id
            assert stream.welcome.owner == "ana"
            await stream.run("r-1", prompt="mend it")

            rows = sb.runs.rows().rows

            assert [(row.run.id, row.machine_name, row.reachable) for row in rows] == [("r-1", "mill", True)]


async def test_what_a_hello_brings_is_stored_and_acknowledged_as_its_first_report(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        runs = [run(f"r-{n}") for n in range(300)]
        async with mill.attached(runs=runs, approvals=[approval("a-1", "r-7")]) as stream:
            await eventually(lambda: stream.acked == 1)

            assert len(sb.runs.rows(None).rows) == 100
            assert len(sb.projection.runs()) == 300
            assert sb.approvals.get("a-1").owner == "ana"


async def test_a_bad_run_in_a_hello_is_refused_and_the_rest_is_taken(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        bad = [run("../../etc"), run("r-}{"), run("r-x", "UNSPECIFIED"), run("r-good")]
        async with mill.attached(runs=bad) as stream:
            await eventually(lambda: stream.acked == 1)

            assert [r.id for r in sb.projection.runs()] == ["r-good"]
            assert len(await sb.audited("report.refused")) == 3


async def test_a_machine_cannot_speak_of_another_machines_run_and_its_stream_goes_on(store_url):
    async with core(store_url) as sb:
        mill, forge = await sb.machine("mill"), await sb.machine("forge")
        async with mill.attached() as honest, forge.attached() as rogue:
            await honest.run("r-1", prompt="mend it")
            await rogue.told(run=run("r-1", "STOPPED", 99))
            await rogue.told(approval=approval("a-1", "r-1"))
            await rogue.told(
                receipt=stop_pb2.Receipt(order_id="o-1", run_id="r-1", attempt=1, outcome=stop_pb2.OUTCOME_ENDED)
            )
            await rogue.run("r-2")

            known = sb.projection.run("r-1")
            assert (known.machine, known.state) == (mill.id, RunState.RUNNING)
            assert sb.projection.approvals() == []
            assert sb.projection.receipts("o-1") == []
            refused = await sb.audited("report.refused")
            assert {entry.by for entry in refused} == {forge.id}
            assert {entry.subject for entry in refused} == {"Run", "Approval", "Receipt"}


async def test_a_machine_cannot_hand_its_run_to_another_owner(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as stream:
            started, _ = await sb.runs.start(KIM, machine="mill", path="/src", agent="claude", prompt="mend it")
            await stream.run(started.id, owner="ben")

            assert sb.projection.run(started.id).owner == "kim"


async def test_the_first_message_must_be_a_hello(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.service() as stub:
            call = stub.Attach()
            await call.write(fleet_pb2.AttachRequest(report=1, heartbeat=fleet_pb2.Heartbeat()))

            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "hello" in await call.details()


async def test_a_daemon_that_says_only_what_it_must_is_understood(store_url):
    """As one of a year ago: every field that may come later is missing."""
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as stream:
            await stream.run("r-0")
        async with mill.service() as stub, mill.uploading() as up:
            old = Attachment(mill, stub.Attach())
            bare = run_pb2.Run(id="r-1", revision=1, state=run_pb2.RUN_STATE_WAITING)
            asked = approval_pb2.Approval(
                id="a-1", run_id="r-1", revision=1, state=approval_pb2.APPROVAL_STATE_OPEN, expires_in_ms=60_000
            )
            await old.send(hello=fleet_pb2.Hello(runs=[bare], approvals=[asked]))
            reading = asyncio.create_task(old.read())
            await eventually(lambda: old.acked == 1 and old.welcome)

            assert sb.projection.run("r-0").active, "it does not claim to name all that live"
            row = next(row for row in sb.runs.rows().rows if row.run.id == "r-1")
            assert (row.run.owner, row.run.content, row.reachable) == ("ana", "full", True)
            assert row.proof_age is not None
            assert sb.approvals.get("a-1").kind == "unknown"
            await up.batch("r-1", 1, ["a"])
            await eventually(lambda: up.watermarks.get("r-1") == 2)
            order = await sb.stops.issue(KIM, Selector(all=True), "x")
            await eventually(lambda: [o.id for o in old.orders.orders] == [order.id])
            await old.send(orders_seen=stop_pb2.OrdersSeen())
            await old.told(receipt=stop_pb2.Receipt(order_id=order.id, run_id="r-1", outcome=stop_pb2.OUTCOME_ENDED))
            standings = {row.run: row.standing for row in sb.stops.status(order.id).rows}
            assert standings == {"r-0": Standing.UNCONFIRMED, "r-1": Standing.ENDED}
            await old.beat()
            await eventually(lambda: old.beats)
            assert not old.ended
            assert await sb.audited("report.refused") == []
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            old.call.cancel()


async def test_a_report_of_a_younger_daemon_is_counted_and_passed_over(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as stream:
            await stream.told()
            await stream.run("r-1")


async def test_the_newest_connection_wins_and_the_older_is_fenced(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as older, mill.attached() as newer:
            await eventually(lambda: older.ended)

            assert older.fenced.retry
            assert newer.welcome.connection > older.welcome.connection
            await newer.run("r-1")
            assert sb.presence.attached(mill.id)


async def test_a_machine_that_hangs_up_is_away(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.attached():
            assert sb.presence.attached(mill.id)
        await eventually(lambda: not sb.presence.attached(mill.id))
        await eventually(lambda: not sb.projection.machine(mill.id).attached)


async def test_a_silent_machine_is_away_after_three_beats(store_url):
    async with core(store_url, heartbeat=timedelta(milliseconds=300)) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as stream:
            await eventually(lambda: stream.ended)

            assert stream.error.code() is grpc.StatusCode.UNAVAILABLE
            assert not sb.presence.attached(mill.id)


async def test_heartbeats_keep_a_machine_and_carry_the_generation(store_url):
    async with core(store_url, heartbeat=timedelta(milliseconds=300)) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as stream:
            for _ in range(15):
                await stream.beat()
                await asyncio.sleep(0.1)

            assert not stream.ended
            await eventually(lambda: len(stream.beats) >= 2)
            assert stream.beats[-1].store_epoch == stream.welcome.orders.store_epoch


async def test_a_machine_whose_orders_are_behind_gets_the_set_at_its_next_beat(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        order = await sb.stops.issue(ANA, Selector(all=True), "incident 7")
        async with mill.attached() as stream:
            stream.orders.orders.clear()
            stream.orders.generation = order.generation - 1
            await stream.beat()

            await eventually(lambda: [o.id for o in stream.orders.orders] == [order.id])


async def test_orders_come_in_the_welcome_and_tombstones_with_them(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        lifted = await sb.stops.issue(ANA, Selector(repos=("example.org/a",)), "a is on fire")
        standing = await sb.stops.issue(ANA, Selector(all=True), "everything is")
        await sb.stops.lift(ANA, lifted.id, "a is out")
        await sb.instructions.order(Kind.INTERRUPT, mill.id, "r-1", {"run_id": "r-1"}, by="ana")
        async with mill.attached() as stream:
            await eventually(lambda: stream.instructions)

            assert [response.WhichOneof("kind") for response in stream.received][:2] == ["welcome", "instruction"]
            found = {order.id: order.lifted for order in stream.welcome.orders.orders}
            assert found == {lifted.id: True, standing.id: False}


async def test_after_the_welcome_a_machine_is_told_what_is_new_of_the_orders_and_nothing_twice(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        first = await sb.stops.issue(ANA, Selector(repos=("example.org/a",)), "a is on fire")
        async with mill.attached() as stream:
            assert [order.id for order in stream.orders.orders] == [first.id]
            second = await sb.stops.issue(ANA, Selector(all=True), "everything is")
            await eventually(lambda: stream.orders.generation == second.generation)
            assert [order.id for order in stream.orders.orders] == [second.id]
            lifted = await sb.stops.lift(ANA, first.id, "a is out")
            await eventually(lambda: stream.orders.generation == lifted.generation)
            assert [(order.id, order.lifted) for order in stream.orders.orders] == [(first.id, True)]


async def test_three_hundred_machines_get_an_order_and_all_their_acks_are_counted(store_url):
    async with core(store_url, heartbeat=timedelta(seconds=30)) as sb:
        machines = [await sb.machine(f"mill-{n:03}") for n in range(300)]
        stack = [machine.attached() for machine in machines]
        streams = await asyncio.gather(*(one.__aenter__() for one in stack))
        try:
            for stream in streams:
                stream.on_orders = lambda _, stream=stream: stream.seen()
            order = await sb.stops.issue(KIM, Selector(all=True), "drill")

            await eventually(lambda: sb.stops.status(order.id).seen == 300, within=30)

            status = sb.stops.status(order.id)
            assert (status.machines, status.away) == (300, ())
            await eventually(
                lambda: all(m.orders_generation >= order.generation for m in sb.projection.machines()), within=30
            )
        finally:
            await asyncio.gather(*(one.__aexit__(None, None, None) for one in stack))


async def test_an_order_is_shown_with_a_standing_for_every_run(store_url):
    async with core(store_url) as sb:
        mill, forge = await sb.machine("mill"), await sb.machine("forge")
        async with forge.attached() as gone:
            await gone.run("r-away")
        await eventually(lambda: not sb.presence.attached(forge.id))
        async with mill.attached() as stream:
            await stream.run("r-1")
            await stream.run("r-2")
            preview = sb.stops.preview(KIM, Selector(all=True))
            assert ([r.id for r in preview.runs], preview.machines_away) == (
                [r.id for r in sorted(sb.projection.runs(), key=lambda r: (r.machine, r.id))],
                ("forge",),
            )
            order = await sb.stops.issue(KIM, Selector(all=True), "incident 7")
            rows = {row.run: row.standing for row in sb.stops.status(order.id).rows}
            assert rows == {
                "r-1": Standing.UNCONFIRMED,
                "r-2": Standing.UNCONFIRMED,
                "r-away": Standing.UNREACHABLE,
            }
            await eventually(lambda: stream.orders.orders)
            await stream.seen({order.id: ["r-1", "r-2", "r-forgotten"]})
            await eventually(lambda: len(sb.stops.status(order.id).rows) == 4)
            ended = stop_pb2.Receipt(
                order_id=order.id,
                run_id="r-1",
                attempt=1,
                outcome=stop_pb2.OUTCOME_ENDED,
                proof=stop_pb2.PROOF_CONTAINED,
                rung="kill",
                processes=7,
            )
            await stream.told(receipt=ended)
            ended.safety.CopyFrom(stop_pb2.Safety(id="s-1", files=2))
            await stream.told(receipt=ended)
            ended.ClearField("safety")
            await stream.told(receipt=ended)

            rows = {row.run: row for row in sb.stops.status(order.id).rows}
            assert rows["r-1"].standing is Standing.ENDED
            assert (rows["r-1"].receipt.proof, rows["r-1"].receipt.safety.files) == ("contained", 2)
            assert rows["r-2"].standing is rows["r-forgotten"].standing is Standing.ENDING
            assert sb.stops.status(order.id).counts == {"ended": 1, "ending": 2, "unreachable": 1}


async def test_what_was_over_when_an_order_was_given_is_none_of_its_runs(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as stream:
            await stream.run("r-wrong", "REFUSED", reason="there is no such folder")
            await stream.run("r-1")
            sb.clock.forward(timedelta(seconds=3))
            order = await sb.stops.issue(KIM, Selector(all=True), "incident 7")
            # Its machine cannot tell which of the two was first.
            for run in ("r-wrong", "r-late"):
                refused = stop_pb2.Receipt(order_id=order.id, run_id=run, attempt=1, outcome=stop_pb2.OUTCOME_REFUSED)
                await stream.told(receipt=refused)

            await eventually(lambda: len(sb.stops.status(order.id).rows) == 2)
            assert {row.run for row in sb.stops.status(order.id).rows} == {"r-1", "r-late"}


async def test_an_instruction_comes_again_at_every_attach_until_it_is_reported(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as first:
            started, start = await sb.runs.start(
                ANA, machine=None, path="/src", agent="claude", prompt="x" * 1_000_000, mode="plan"
            )
            await eventually(lambda: first.instructions)
            assert first.instructions[0].start.prompt == "x" * 1_000_000
            assert first.instructions[0].start.run_id == started.id
        async with mill.attached() as second:
            await eventually(lambda: second.instructions)
            assert second.instructions[0].id == start.id
            report = fleet_pb2.InstructionReport(instruction_id=start.id, state=fleet_pb2.REPORT_STATE_DELIVERED)
            await second.told(instruction_report=report)
            report.state = fleet_pb2.REPORT_STATE_APPLIED
            await second.told(instruction_report=report)
            assert (await sb.instructions.get(start.id)).body == {}
        async with mill.attached() as third:
            await third.run(started.id)
            assert third.instructions == []


async def test_a_start_that_its_daemon_refuses_closes_the_run_with_its_sentence(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as stream:
            started, start = await sb.runs.start(ANA, machine="mill", path="/nowhere", agent="claude", prompt="mend")
            failed = fleet_pb2.InstructionReport(
                instruction_id=start.id, state=fleet_pb2.REPORT_STATE_FAILED, reason="/nowhere is no folder"
            )
            await stream.told(instruction_report=failed)

            known = sb.projection.run(started.id)
            assert (known.state, known.reason) == (RunState.REFUSED, "/nowhere is no folder")


async def test_runs_that_a_machine_no_longer_knows_are_closed_when_it_names_all_that_live(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as stream:
            await stream.run("r-1")
            await stream.run("r-2")
        async with mill.attached(runs=[run("r-2", revision=2)], capabilities=["all-live-runs"]) as stream:
            await eventually(lambda: stream.acked == 1)

            assert sb.projection.run("r-1").state is RunState.INTERRUPTED
            assert sb.projection.run("r-2").state is RunState.RUNNING


async def test_the_store_is_emptied_under_a_live_fleet_and_everything_comes_back(store_url, store):
    async with core(store_url, heartbeat=timedelta(milliseconds=500)) as sb:
        mill = await sb.machine("mill")
        lifted = await sb.stops.issue(KIM, Selector(repos=("example.org/a",)), "a is on fire")
        await sb.stops.lift(KIM, lifted.id, "a is out")
        order = await sb.stops.issue(KIM, Selector(repos=("example.org/b",)), "b is, too")
        facts = {"runs": [run("r-1")], "approvals": [approval("a-1", "r-1")]}
        async with mill.attached(**facts) as stream:
            await eventually(lambda: stream.acked == 1)
            epoch = stream.welcome.orders.store_epoch

            await store.client.call("FLUSHALL", again=True)
            await store.client.load_functions()

            async def beaten():
                await stream.beat()
                return any(beat.store_epoch != epoch for beat in stream.beats)

            await eventually(beaten)
            held = stream.orders
        async with mill.attached(orders_held=held, store_epoch=epoch, **facts) as stream:
            await eventually(lambda: stream.acked == 1)

            assert stream.welcome.orders.store_epoch != epoch
            found = {o.id: (o.lifted, o.reason) for o in stream.welcome.orders.orders}
            assert found == {lifted.id: (True, "a is on fire"), order.id: (False, "b is, too")}
            assert stream.welcome.orders.generation >= held.generation
            assert {o.id for o in await store.orders.all()} == {lifted.id, order.id}
            assert [r.id for r in await store.runs.all()] == ["r-1"]
            assert [a.id for a in await store.approvals.all()] == ["a-1"]
            assert (await store.machines.get(mill.id)).owner == "ana"


async def test_a_daemon_that_never_notices_the_other_store_is_made_to_say_hello_again(store_url, store):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as stream:
            await store.client.call("FLUSHALL", again=True)
            await store.client.load_functions()

            async def ended():
                await stream.beat()
                await asyncio.sleep(0.05)
                return stream.ended

            await eventually(ended)
            assert stream.error.code() is grpc.StatusCode.UNAVAILABLE


async def test_orders_that_only_a_machine_holds_are_put_back_but_forged_ones_are_not(store_url, store, tmp_path):
    async with core(store_url, tmp_path / "a") as sb:
        mill = await sb.machine("mill")
        order = await sb.stops.issue(KIM, Selector(all=True), "incident 7")
        async with mill.attached() as stream:
            held = stream.welcome.orders
    await store.client.call("FLUSHALL", again=True)
    (tmp_path / "a" / "orders.jsonl").unlink()
    async with core(store_url, tmp_path / "a") as sb:
        mill.ports = sb.ports
        forged = held.orders.add()
        forged.CopyFrom(held.orders[0])
        forged.id = order.id[:-1] + ("0" if order.id[-1] != "0" else "1")
        changed = stop_pb2.OrderSet(store_epoch=held.store_epoch, generation=held.generation)
        changed.orders.add().CopyFrom(held.orders[0])
        changed.orders[0].selector.Clear()
        changed.orders[0].selector.machines.append("m-other")
        async with mill.attached(orders_held=changed) as stream:
            assert list(stream.welcome.orders.orders) == []
        async with mill.attached(orders_held=held) as stream:
            assert [o.id for o in stream.welcome.orders.orders] == [order.id]
            assert stream.welcome.orders.generation >= held.generation
        assert len(await sb.audited("order.forged")) == 2
        held.orders[0].lifted = True
        async with mill.attached(orders_held=held) as stream:
            assert [o.lifted for o in stream.welcome.orders.orders] == [False]


async def test_a_lift_that_only_a_machine_holds_counts_when_it_is_ours_and_else_the_order_stands(
    store_url, store, tmp_path
):
    async with core(store_url, tmp_path) as sb:
        mill = await sb.machine("mill")
        lifted = await sb.stops.issue(KIM, Selector(repos=("example.org/a",)), "a is on fire")
        await sb.stops.lift(KIM, lifted.id, "a is out")
        order = await sb.stops.issue(KIM, Selector(all=True), "everything is")
        async with mill.attached() as stream:
            held = stream.welcome.orders
    await store.client.call("FLUSHALL", again=True)
    (tmp_path / "orders.jsonl").unlink()
    async with core(store_url, tmp_path) as sb:
        mill.ports = sb.ports
        claimed = held.orders[-1]
        assert claimed.id == order.id
        claimed.lifted, claimed.lifted_by, claimed.lift_reason = True, "kim", "a is out"
        claimed.lift_seal = held.orders[0].lift_seal  # of another order's lift
        async with mill.attached(orders_held=held) as stream:
            found = {o.id: o.lifted for o in stream.welcome.orders.orders}
            assert found == {lifted.id: True, order.id: False}
        async with mill.attached(orders_held=held) as stream:
            assert [o.lifted for o in stream.welcome.orders.orders if o.id == order.id] == [False]
        assert {entry.subject for entry in await sb.audited("order.lift-forged")} == {order.id}


async def test_a_decision_receipt_and_the_state_of_a_run_are_read_from_the_wire(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as stream:
            await stream.run("r-1", "WAITING", waits_for="a-1")
            await stream.told(approval=approval("a-1", "r-1"))
            card = sb.approvals.get("a-1")
            await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=card.digest, vote_id="v-1")
            await eventually(lambda: stream.instructions)
            decision = stream.instructions[0]
            assert (decision.id, decision.decision.by) == ("v-1", "kim")
            assert decision.decision.verdict == approval_pb2.VERDICT_APPROVE
            for application in (approval_pb2.APPLICATION_ACCEPTED, approval_pb2.APPLICATION_APPLIED):
                receipt = approval_pb2.DecisionReceipt(
                    approval_id="a-1", decision_id="v-1", application=application, verdict=1, by="kim"
                )
                await stream.told(decision_receipt=receipt)

            found = sb.approvals.get("a-1")
            assert (found.delivery, found.in_force.by) == ("applied", "kim")
            assert await sb.audited("approval.differs") == []


async def test_thousands_of_reports_of_one_machine_are_all_stored_and_acknowledged(store_url):
    async with core(store_url, heartbeat=timedelta(seconds=30)) as sb:
        mill = await sb.machine("mill")
        async with mill.attached() as stream:
            for n in range(2_000):
                last = await stream.send(run=run(f"r-{n % 500}", revision=1 + n // 500))
            await eventually(lambda: stream.acked >= last, within=60)

            assert {r.revision for r in sb.projection.runs()} == {4}


def test_every_state_of_the_wire_has_a_word_here():
    from switchboard.rpc import translate

    for enum, table in (
        (run_pb2.RunState, translate.RUN_STATES),
        (approval_pb2.ApprovalState, translate.APPROVAL_STATES),
        (approval_pb2.Application, translate.APPLICATIONS),
        (approval_pb2.Verdict, translate.VERDICTS),
        (stop_pb2.Outcome, translate.OUTCOMES),
        (stop_pb2.Proof, translate.PROOFS),
        (fleet_pb2.ReportState, translate.REPORT_STATES),
        (run_pb2.EventKind, {**translate.EVENT_KINDS, run_pb2.EVENT_KIND_UNKNOWN: "unknown"}),
    ):
        assert set(enum.values()) - {0} == set(table)
