"""The daemon's own life: ended, killed at any line, and with a disk that takes nothing."""

import asyncio
import contextlib
import json
import os
import resource
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.checkouts import checkout
from helpers.daemons import alive_with, marked
from helpers.eventually import eventually
from helpers.mill import Mill, bash, mill
from helpers.scripted import ScriptedModel
from switchboard_rpc.v1 import approval_pb2, fleet_pb2, stop_pb2

WITHDRAWN = approval_pb2.APPROVAL_STATE_WITHDRAWN


async def test_an_ended_daemon_leaves_nothing_alive_and_its_run_can_be_resumed(machine: Mill) -> None:
    token = f"31{secrets.randbelow(10**6):06}"
    run = await machine.start([bash(f"(setsid sleep {token} &) ; sleep {token} & sh -c 'sleep {token}'")])
    await machine.approved(run)
    await eventually(lambda: len(alive_with(token)) >= 3, 60)
    waiting = await machine.start([bash("echo never > never.txt")])
    asked = await machine.asked(waiting)

    assert await machine.daemon.end() == 0

    assert alive_with(token) == []
    assert machine.switch.states(run)[-1] == "interrupted"
    assert machine.switch.run(run).reason == "the daemon was stopped"
    (over,) = machine.switch.approvals(waiting)
    assert (over.id, over.state) == (asked.id, WITHDRAWN)
    for ended in (run, waiting):
        assert machine.switch.run(ended).output_next == machine.switch.events[ended][-1].seq + 1

    await machine.daemon.start()
    await eventually(lambda: machine.switch.stream, 60)
    resumed = await machine.switch.instruct(resume=fleet_pb2.Resume(run_id=waiting, text=""))
    assert (await machine.outcome(resumed)).state == fleet_pb2.REPORT_STATE_APPLIED
    assert (await machine.state(waiting, "idle")).attempt == 2
    assert not (machine.repo / "never.txt").exists()


POINTS = ["journal.instruction.written", "process.launched", "runner.started", "runner.asked"]
LATER_POINTS = ["journal.decision.writing", "journal.decision.written", "runner.answered"]


@pytest.mark.parametrize("point", [*POINTS, *LATER_POINTS])
async def test_killed_at_any_line_nothing_is_lost_doubled_or_orphaned(
    tmp_path: Path, model: ScriptedModel, point: str
) -> None:
    async with mill(tmp_path, model, fault=point) as machine:
        name = f"made-{secrets.token_hex(4)}.txt"
        start = fleet_pb2.Start(
            run_id="r-1",
            path=str(machine.repo),
            agent="claude",
            prompt='@@[[{"tool":"Bash","input":{"command":"echo x >> ' + name + '"}}],[{"text":"finished"}]]@@',
            owner="ana",
        )
        await machine.switch.instruct("i-start", start=start)
        assert machine.daemon.process is not None
        died = machine.daemon.process
        decision = ""
        if point in LATER_POINTS:
            asked = await machine.asked("r-1")
            decision = await machine.decide(asked, id="i-decision")
        async with asyncio.timeout(60):
            await died.wait()
        assert died.returncode == -signal.SIGKILL

        await machine.daemon.start()
        await eventually(lambda: len(machine.switch.streams) == 2, 60)
        await machine.switch.instruct("i-start", start=start)  # unreported instructions are delivered again
        if decision:
            await machine.decide(asked, id="i-decision")
        # Whoever started it has an answer, and the run is not alive unless it was never begun.
        begun = await machine.outcome("i-start")
        await eventually(lambda: machine.switch.run("r-1") is not None)
        if begun.state == fleet_pb2.REPORT_STATE_FAILED:
            assert machine.switch.states("r-1")[-1] in ("refused", "interrupted")
        elif machine.switch.run("r-1").attempt == 1 and machine.switch.states("r-1")[-1] != "interrupted":
            await machine.approved("r-1")
            await machine.state("r-1", "idle")
        assert machine.switch.states("r-1").count("interrupted") <= 1
        if machine.switch.states("r-1")[-1] == "interrupted":
            assert machine.switch.run("r-1").reason == "the daemon stopped while it ran"
            assert machine.switch.open_approval("r-1") is None
            await eventually(lambda: marked("m-mill/r-1") == [])
            assert [p for p in alive_with("keeper.py") if str(machine.daemon.home) in " ".join(p.cmdline())] == []
        lines = (machine.repo / name).read_text() if (machine.repo / name).exists() else ""
        assert lines in ("", "x\n")
        if decision:
            receipts = [r for r in machine.switch.decision_receipts(asked.id) if r.decision_id == decision]
            await eventually(lambda: receipts or machine.switch.decision_receipts(asked.id))
            told = {r.application for r in machine.switch.decision_receipts(asked.id)}
            refused, undeliverable = approval_pb2.APPLICATION_REFUSED, approval_pb2.APPLICATION_UNDELIVERABLE
            # Not in force, or in force and then not delivered: never both.
            assert not {refused, undeliverable} <= told
            assert told & {refused, undeliverable}
            if refused in told:
                assert lines == ""
        events = machine.switch.events.get("r-1", [])
        assert [event.seq for event in events] == list(range(1, len(events) + 1))


async def test_a_full_disk_lets_nothing_start_or_go_on_and_is_told_and_it_recovers(
    tmp_path: Path, model: ScriptedModel
) -> None:
    checkout(tmp_path / "repo")
    async with mill(tmp_path, model, "journal_bytes = 409600") as machine:
        run = await machine.start([bash("echo never > never.txt")])
        asked = await machine.asked(run)
        # Lists of 10,000 are normal; this one does not fit into the journal's quota.
        for _ in range(600):
            order = machine.switch.orders.orders.add()
            order.id, order.by, order.reason, order.lifted = machine.switch.id("o"), "ana", "x" * 1_000, True
        machine.switch.orders.generation += 1
        await machine.switch.stream.send(orders=machine.switch.orders)

        interrupted = await machine.state(run, "interrupted")
        assert "the disk takes nothing any more" in interrupted.reason
        await eventually(lambda: [m for f, m in machine.switch.facts if f == "alarm" and m.kind == "disk"])
        refused = await machine.state(await machine.start([{"text": "never"}]), "refused", "interrupted", "failed")
        assert "disk takes nothing" in refused.reason
        assert not (machine.repo / "never.txt").exists()
        beats = len([r for r in machine.switch.stream.reports if r.WhichOneof("kind") == "heartbeat"])
        await eventually(
            lambda: len([r for r in machine.switch.stream.reports if r.WhichOneof("kind") == "heartbeat"]) > beats
        )
        assert len(machine.switch.streams) == 1, "it stays attached, and does not dial again and again"
        (over,) = machine.switch.approvals(run)
        assert (over.id, over.state) == (asked.id, WITHDRAWN)
        assert "the disk takes nothing any more" in over.reason

        del machine.switch.orders.orders[:]
        (machine.daemon.home / "daemon.toml").write_text("")
        assert await machine.daemon.end() == 0
        await machine.daemon.start()
        await eventually(lambda: machine.switch.stream, 60)
        await machine.state(await machine.start([{"text": "again\n"}]), "idle")


async def test_a_running_daemon_on_a_full_disk_tells_what_stands_and_writes_it_down_when_it_can(machine: Mill) -> None:
    run = await machine.start([bash("echo never > never.txt")])
    asked = await machine.asked(run)

    with full_disk(machine.daemon.pid):
        order = await machine.switch.order(runs=[run])

        over = await eventually(
            lambda: next((a for a in machine.switch.approvals(run) if a.state == WITHDRAWN), None), 60
        )
        assert (over.id, over.revision) == (asked.id, asked.revision + 1)
        assert "the disk takes nothing any more" in over.reason
        assert (await machine.state(run, "stopped", "interrupted")).reason
        receipt = await eventually(lambda: machine.switch.receipts(order).get(run), 60)
        assert receipt.outcome == stop_pb2.OUTCOME_ENDED
        await eventually(lambda: "nothing can be written" in alarm(machine))
        assert (await machine.daemon.ask("status"))["disk"]

    await eventually(lambda: alarm(machine) == "the disk takes writes again", 60)
    await machine.switch.lift(order)
    await machine.state(await machine.start([{"text": "again\n"}]), "idle")
    ended = machine.switch.run(run).state
    said = len(machine.switch.facts)
    await machine.daemon.kill()  # the disk holds what was said, so nothing is withdrawn or interrupted a second time
    await machine.daemon.start()
    await eventually(lambda: len(machine.switch.streams) == 2, 60)
    (over,) = machine.switch.approvals(run)
    assert "the disk takes nothing any more" in over.reason
    assert {m.state for f, m in machine.switch.facts[said:] if f == "run" and m.id == run} <= {ended}


@contextlib.contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """No file takes a byte of this process, as on a disk without room; its connections do."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def alarm(machine: Mill) -> str:
    """The newest word on the disk."""
    return next((m.text for f, m in reversed(machine.switch.facts) if f == "alarm" and m.kind == "disk"), "")


async def test_one_daemon_per_folder_and_each_trouble_is_one_sentence(machine: Mill) -> None:
    async def run(*argv: str, **env: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "daemon", *argv),
            env={**os.environ, **env},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, (out + err).decode()

    home = str(machine.daemon.home)
    other = str(machine.root / "other")
    code, said = await run("run", "--data", home)
    assert (code, "another daemon runs in" in said) == (1, True)
    code, said = await run("run", "--data", other)
    assert (code, "has not joined a switchboard yet" in said, said.count("\n")) == (1, True, 1)
    code, said = await run("join", machine.ports.enroll_address, "sbj_x", "--data", other)
    assert (code, "the join token is not whole" in said) == (1, True)
    wrong = f"sbj_secret_{'0' * 32}"
    code, said = await run("join", machine.ports.enroll_address, wrong, "--data", other)
    assert (code, "is not the switchboard that made this token" in said) == (1, True)
    used = f"sbj_used_{machine.switch.authority.enroll_fingerprint}"
    code, said = await run("join", machine.ports.enroll_address, used, "--data", other)
    assert (code, "this join token was used before" in said) == (1, True)
    code, said = await run("status", "--data", other)
    assert (code, "no daemon answers" in said) == (1, True)
    code, said = await run("status", "--data", home)
    assert (code, "attached" in said) == (0, True)
    (machine.root / "other" / "daemon.toml").write_text("idle_after_s = -1")
    joined, said = await run(
        "join", machine.ports.enroll_address, machine.switch.token, "--data", other, "--name", "the <b>other</b>\nmill"
    )
    assert joined == 0, said
    code, said = await run("run", "--data", other)
    assert (code, "idle_after_s must be a number of seconds, at least 1, not -1" in said) == (1, True)
    assert json.loads((machine.root / "other" / "machine.json").read_text())["id"] == "m-mill"
    for file in ("key.pem", "certificate.json"):
        assert (machine.root / "other" / file).stat().st_mode & 0o777 == 0o600


async def test_an_agent_that_does_not_answer_keeps_no_order_waiting(tmp_path: Path, model: ScriptedModel) -> None:
    slow, goes_on = tmp_path / "slow-claude", tmp_path / "goes-on"
    slow.write_text(f"#!/bin/sh\nuntil [ -e {goes_on} ]; do sleep 0.05; done\necho 9.9.9\n")
    slow.chmod(0o755)
    async with mill(tmp_path, model, settings=f'claude = "{slow}"') as machine:
        first = machine.switch.stream
        await machine.switch.order(all=True)
        await eventually(lambda: machine.switch.seen(machine.switch.orders.generation), 60)
        assert list(first.hello.agents) == []

        goes_on.touch()
        await eventually(lambda: machine.switch.stream is not first, 60)
        assert [agent.version for agent in machine.switch.stream.hello.agents] == ["9.9.9"]
