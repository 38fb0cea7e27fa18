"""A restart in plan, asked for on the command line: runs come to rest and are taken up again, unless a word comes between."""

import asyncio
from typing import Any

import grpc
from helpers.eventually import eventually
from helpers.mill import Mill, bash
from switchboard_rpc.v1 import approval_pb2, run_pb2, stop_pb2

from daemon import door

RESTARTED = "every run is at rest; the daemon starts again and takes them up\n"
STOPPED = "the daemon was stopped"


def restarting(machine: Mill, wait: int = 60) -> "asyncio.Task[tuple[int, str]]":
    return asyncio.create_task(
        machine.daemon.command("restart", "--wait", str(wait)), name="switchboard-daemon restart"
    )


async def draining(machine: Mill) -> None:
    """Wait until nothing starts any more."""

    async def refused() -> bool:
        run = await machine.start([{"text": "never"}])
        over = await machine.state(run, "refused", "idle")
        return "the daemon restarts" in over.reason

    await eventually(refused, 60)


async def status(machine: Mill) -> dict[str, Any]:
    try:
        return await machine.daemon.ask("status")
    except door.NoDaemon as error:  # it is on its way
        raise AssertionError(str(error)) from error


def told(machine: Mill, run: str) -> list[str]:
    return [e.text for e in machine.switch.events.get(run, []) if e.kind == run_pb2.EVENT_KIND_PROMPT]


async def test_it_keeps_its_pid_waits_for_idle_moments_and_takes_runs_up_again(machine: Mill) -> None:
    run = await machine.start([bash("echo slow > slow.txt")], [{"text": "turn over\n"}])
    asked = await machine.asked(run)
    session = machine.switch.run(run).session_id
    pid = machine.daemon.pid
    before = await status(machine)
    assert before["attached"]
    assert [(each["id"], each["state"]) for each in before["runs"]] == [(run, "waiting")]

    restart = restarting(machine)
    await draining(machine)
    assert not restart.done()
    await machine.decide(asked)

    assert await restart == (0, RESTARTED)
    await eventually(lambda: machine.switch.run(run).attempt == 2, 60)
    again = await machine.state(run, "idle")
    assert again.session_id == session
    assert "interrupted" in machine.switch.states(run)
    assert (machine.repo / "slow.txt").read_text() == "slow\n"
    assert (await status(machine))["pid"] == pid
    assert machine.daemon.process is not None
    assert machine.daemon.process.returncode is None
    assert len(told(machine, run)) == 1, "it had done what it was told, so it is told nothing more"
    seqs = [event.seq for event in machine.switch.events[run]]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_what_does_not_come_to_rest_in_time_is_interrupted_and_told_to_go_on(machine: Mill) -> None:
    run = await machine.start([bash("echo never > never.txt")])
    asked = await machine.asked(run)
    session = machine.switch.run(run).session_id

    assert await restarting(machine, wait=1) == (0, RESTARTED)

    await eventually(lambda: machine.switch.run(run).attempt == 2, 60)
    again = await machine.state(run, "idle")
    assert again.session_id == session
    (over,) = machine.switch.approvals(run)
    assert (over.id, over.state) == (asked.id, approval_pb2.APPROVAL_STATE_WITHDRAWN)
    assert not (machine.repo / "never.txt").exists()
    await eventually(lambda: "Go on where you left off" in told(machine, run)[-1])


async def test_a_stop_of_the_daemon_calls_a_restart_off(machine: Mill) -> None:
    resting = await machine.start([{"text": "done\n"}])
    await machine.state(resting, "idle")
    run = await machine.start([bash("echo never > never.txt")])
    await machine.asked(run)
    restart = restarting(machine)
    await machine.state(resting, "interrupted")

    assert (await machine.daemon.command("stop"))[0] == 0

    code, said = await restart
    assert (code, "does not start again" in said) == (1, True), said
    assert machine.daemon.process is not None
    assert await asyncio.wait_for(machine.daemon.process.wait(), 60) == 0
    await machine.daemon.start()
    await eventually(lambda: machine.switch.stream, 60)
    await machine.state(await machine.start([{"text": "after\n"}]), "idle")
    for each in (resting, run):
        known = await machine.state(each, "interrupted")
        assert (known.attempt, known.reason) == (1, STOPPED)
    assert len((await status(machine))["runs"]) == 1


async def restarted_alone(machine: Mill) -> None:
    """Restart the daemon, which then finds no switchboard."""
    machine.switch.attach_error = (grpc.StatusCode.UNAVAILABLE, "not yet")
    assert await restarting(machine) == (0, RESTARTED)

    async def away() -> bool:
        return "not yet" in str((await status(machine))["trouble"])

    await eventually(away, 60)


async def test_an_order_that_was_given_meanwhile_is_obeyed_before_anything_is_taken_up(machine: Mill) -> None:
    run = await machine.start([{"text": "done\n"}])
    await machine.state(run, "idle")
    await restarted_alone(machine)
    assert (await status(machine))["runs"] == []

    machine.switch.attach_error = None
    order = await machine.switch.order(all=True, reason="incident 7")

    def refused() -> bool:
        # The attempt that was drained has a receipt of its own, before that of the one that is not begun.
        receipt = machine.switch.receipts(order).get(run)
        return receipt is not None and (receipt.outcome, receipt.attempt) == (stop_pb2.OUTCOME_REFUSED, 2)

    await eventually(refused, 60)
    assert machine.switch.run(run).attempt == 1
    assert machine.switch.states(run)[-1] == "interrupted"


async def test_a_daemon_that_is_killed_before_it_has_taken_them_up_forgets_none(machine: Mill) -> None:
    run = await machine.start([{"text": "done\n"}])
    await machine.state(run, "idle")
    await restarted_alone(machine)
    assert (await status(machine))["runs"] == []
    await machine.daemon.kill()

    machine.switch.attach_error = None
    await machine.daemon.start()

    await eventually(lambda: machine.switch.run(run).attempt == 2, 60)
    await machine.state(run, "idle")


async def test_a_machine_without_its_switchboard_takes_its_runs_up_all_the_same(machine: Mill) -> None:
    run = await machine.start([{"text": "done\n"}])
    await machine.state(run, "idle")
    await restarted_alone(machine)

    async def alive() -> bool:
        found = await status(machine)
        return not found["attached"] and [(each["id"], each["state"]) for each in found["runs"]] == [(run, "idle")]

    await eventually(alive, 60)
