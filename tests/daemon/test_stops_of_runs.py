"""Stop orders at a real daemon: on its disk before anything else, obeyed at once and after every absence, with proof."""

import secrets
import signal
from pathlib import Path

import psutil
from helpers.checkouts import write
from helpers.daemons import alive_with
from helpers.eventually import eventually
from helpers.mill import Mill, bash, mill
from helpers.scripted import ScriptedModel
from switchboard_rpc.v1 import approval_pb2, fleet_pb2, stop_pb2

ENDED = stop_pb2.OUTCOME_ENDED


def rest_of(token: str) -> str:
    """A command with escapees: in a session of their own, with an empty environment, forked twice."""
    away = f"(setsid sleep {token} &) ; (setsid env -i sh -c '(sleep {token} &) ; sleep {token}' &)"
    return f"{away} ; sh -c 'trap \"\" TERM; sleep {token}'"


def fresh() -> str:
    return f"31{secrets.randbelow(10**6):06}"


async def busy(machine: Mill, token: str, **more: object) -> str:
    run = await machine.start([bash(rest_of(token))], **more)
    await machine.approved(run)
    await eventually(lambda: len(alive_with(token)) >= 4, 60)
    return run


async def test_an_order_ends_all_of_what_it_means_and_only_that(machine: Mill) -> None:
    token, other = fresh(), fresh()
    run, spared = await busy(machine, token), await busy(machine, other)
    write(machine.repo, {"dirty.txt": "not committed\n", ".env": "SECRET=1\n"})

    order = await machine.switch.order(runs=[run], hold=False, reason="wrong branch")

    seen = await eventually(lambda: machine.switch.seen(1))
    assert [(match.order_id, list(match.run_ids)) for match in seen.matches] == [(order, [run])]
    stopped = await machine.state(run, "stopped")
    assert stopped.reason == f"stopped by order {order} of ana: wrong branch"
    assert alive_with(token) == []
    assert len(alive_with(other)) >= 4
    receipt = await eventually(lambda: machine.switch.receipts(order).get(run))
    assert (receipt.outcome, receipt.attempt) == (ENDED, 1)
    assert receipt.rung in ("terminate", "kill")
    assert receipt.processes >= 5
    await eventually(lambda: machine.switch.receipts(order)[run].safety.id)
    saved = machine.switch.receipts(order)[run].safety
    assert saved.files == 1
    assert any(".env" in path for path in saved.not_saved)
    kinds = [
        field for field, m in machine.switch.facts if field == "orders_seen" or (field == "receipt" and m.run_id == run)
    ]
    assert kinds.index("orders_seen") < kinds.index("receipt")

    copies = (await machine.query(safety=fleet_pb2.SafetyQuery(verb="list")))["copies"]
    assert [copy["id"] for copy in copies] == [saved.id]
    into = machine.root / "restored"
    await machine.query(safety=fleet_pb2.SafetyQuery(verb="restore", id=saved.id, into=str(into)))
    assert (into / "dirty.txt").read_text() == "not committed\n"

    await machine.switch.order(all=True)
    await machine.state(spared, "stopped")
    assert alive_with(other) == []


async def test_a_hold_keeps_runs_from_starting_until_it_is_lifted(machine: Mill) -> None:
    order = await machine.switch.order(repos=["local/repo"], reason="incident 7")
    await eventually(lambda: machine.switch.seen(1))

    held = await machine.start([{"text": "never"}])
    refused = await machine.state(held, "refused")
    assert refused.reason == f"held by order {order} of ana: incident 7; ana or an incident lead can lift it"
    receipt = await eventually(lambda: machine.switch.receipts(order).get(held))
    assert receipt.outcome == stop_pb2.OUTCOME_REFUSED

    await machine.switch.lift(order)
    await machine.state(await machine.start([{"text": "now\n"}]), "idle")


async def test_an_order_without_a_hold_is_for_the_runs_of_its_moment(machine: Mill) -> None:
    order = await machine.switch.order(all=True, hold=False)
    await eventually(lambda: machine.switch.seen(1))

    run = await machine.start([{"text": "fine\n"}])
    await machine.state(run, "idle")
    machine.switch.orders.generation += 1
    await machine.switch.stream.send(orders=machine.switch.orders)  # the same order again, at another moment
    await eventually(lambda: machine.switch.seen(2))
    assert run not in machine.switch.receipts(order)
    assert machine.switch.states(run)[-1] == "idle"


async def test_a_stop_meets_a_run_that_is_only_just_being_started(machine: Mill) -> None:
    run = await machine.start([bash("echo never > never.txt")])
    order = await machine.switch.order(runs=[run], hold=False, reason="not that one")

    over = await machine.state(run, "refused", "stopped")
    assert over.reason == f"stopped by order {order} of ana: not that one"
    receipt = await eventually(lambda: machine.switch.receipts(order).get(run))
    assert receipt.outcome in (stop_pb2.OUTCOME_REFUSED, ENDED)
    assert not (machine.repo / "never.txt").exists()


async def test_a_start_that_says_by_what_it_was_overtaken_begins_nothing_and_each_order_gets_its_receipt(
    machine: Mill,
) -> None:
    order = await machine.switch.order(all=True, hold=False, reason="not that one")
    run = await machine.start([bash("echo never > never.txt")], stopped_by=[order, "o-unknown"])

    assert (await machine.state(run, "refused")).reason == f"stopped by order {order} of ana: not that one"
    for each in (order, "o-unknown"):
        receipt = await eventually(lambda each=each: machine.switch.receipts(each).get(run))
        assert receipt.outcome == stop_pb2.OUTCOME_REFUSED
    assert not (machine.repo / "never.txt").exists()


async def test_a_start_that_was_overtaken_is_proven_by_a_daemon_that_died_before_it_could_say_so(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with mill(tmp_path, model, fault="journal.instruction.written") as machine:
        order = await machine.switch.order(all=True, hold=False, reason="not that one")
        run = await machine.start([bash("echo never > never.txt")], stopped_by=[order])
        assert machine.daemon.process is not None
        assert await machine.daemon.process.wait() == -signal.SIGKILL

        await machine.daemon.start()

        receipt = await eventually(lambda: machine.switch.receipts(order).get(run), 60)
        assert receipt.outcome == stop_pb2.OUTCOME_REFUSED
        assert (await machine.state(run, "refused")).reason == f"stopped by order {order} of ana: not that one"


async def test_a_run_that_ended_while_the_order_was_on_its_way_gets_its_receipt(machine: Mill) -> None:
    run = await machine.start([{"text": "quick\n"}])
    await machine.state(run, "idle")
    await machine.outcome(await machine.switch.instruct(end=fleet_pb2.End(run_id=run)))
    await machine.state(run, "succeeded")

    order = await machine.switch.order(runs=[run], hold=False)

    receipt = await eventually(lambda: machine.switch.receipts(order).get(run))
    assert (receipt.outcome, receipt.rung) == (ENDED, "none")
    assert machine.switch.states(run)[-1] == "succeeded"


async def test_a_killed_keeper_ends_its_run_with_the_true_cause(machine: Mill) -> None:
    token = fresh()
    run = await busy(machine, token)
    asked = await machine.switch.instruct(message=fleet_pb2.Message(run_id=run, text="are you there?"))
    await machine.outcome(asked)
    keeper = next(p for p in alive_with("keeper.py") if any(run in word for word in p.cmdline()))

    keeper.send_signal(signal.SIGKILL)

    failed = await machine.state(run, "failed")
    assert "its keeper was killed or stopped" in failed.reason
    await eventually(lambda: alive_with(token) == [], 30)


async def test_a_stopped_keeper_ends_its_run_and_withdraws_its_question(machine: Mill) -> None:
    run = await machine.start([bash("echo never > never.txt")])
    asked = await machine.asked(run)
    keeper = next(p for p in alive_with("keeper.py") if any(run in word for word in p.cmdline()))

    keeper.send_signal(signal.SIGSTOP)

    failed = await machine.state(run, "failed")
    assert "its keeper was killed or stopped" in failed.reason
    (over,) = machine.switch.approvals(run)
    assert (over.id, over.state) == (asked.id, approval_pb2.APPROVAL_STATE_WITHDRAWN)
    assert "its keeper was killed or stopped" in over.reason
    assert not psutil.pid_exists(keeper.pid) or keeper.status() == psutil.STATUS_ZOMBIE
    assert not (machine.repo / "never.txt").exists()


async def test_orders_that_are_known_only_from_the_disk_count_while_the_switchboard_is_away(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with mill(tmp_path, model) as machine:
        token = fresh()
        run = await busy(machine, token, resume_after_crash=True)
        # It dies in the very moment in which the order is on its disk and nothing was done about it yet.
        await machine.daemon.kill()
        await machine.daemon.start(SWITCHBOARD_FAULT="journal.order.written")
        await eventually(lambda: machine.switch.run(run).attempt == 2, 60)
        await machine.state(run, "idle")
        order = await machine.switch.order(all=True, reason="incident 9")
        assert machine.daemon.process is not None
        await machine.daemon.process.wait()
        assert machine.daemon.process.returncode == -signal.SIGKILL
        machine.switch.orders.orders.clear()  # and the server forgets it

        await machine.daemon.start()

        stopped = await machine.state(run, "stopped")
        assert stopped.reason == f"stopped by order {order} of ana: incident 9"
        assert alive_with(token) == []
        await eventually(lambda: machine.switch.receipts(order).get(run))
        assert [o.id for o in machine.switch.stream.hello.orders_held.orders] == [order]
        held = await machine.state(await machine.start([{"text": "never"}]), "refused")
        assert f"held by order {order}" in held.reason
