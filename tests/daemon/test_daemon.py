"""The whole daemon as a process, with the real Claude Code, against the contract over real gRPC."""

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.checkouts import checkout
from helpers.daemons import DaemonProcess, alive_with, daemon_process
from helpers.eventually import eventually
from helpers.scripted import ScriptedModel, clean_environment, script, scripted_model
from helpers.switch import Ports, Switch, serving
from switchboard_rpc.v1 import approval_pb2, fleet_pb2, stop_pb2

SLOW = 60


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


@dataclass
class Mill:
    """One machine with a daemon and a checkout, and the switchboard that it joined."""

    switch: Switch
    ports: Ports
    daemon: DaemonProcess
    repo: Path

    async def start(self, *turns: list[dict[str, object]], **more: object) -> str:
        run = f"r-{secrets.token_hex(4)}"
        start = fleet_pb2.Start(
            run_id=run, path=str(self.repo), agent="claude", prompt=script(*turns), owner="ana", **more
        )
        await self.switch.instruct(start=start)
        return run

    async def state(self, run: str, state: str, within: float = SLOW) -> None:
        await eventually(lambda: self.switch.states(run)[-1:] == [state], within, f"run {run} to be {state}: {self.switch.states(run)}")

    async def asked(self, run: str) -> approval_pb2.Approval:
        found: approval_pb2.Approval = await eventually(lambda: self.switch.open_approval(run), SLOW)
        return found

    async def decide(self, approval: approval_pb2.Approval, *, approve: bool, **more: str) -> str:
        verdict = approval_pb2.VERDICT_APPROVE if approve else approval_pb2.VERDICT_DENY
        fields = {"digest": approval.digest, "by": "ben", **more}
        decision = approval_pb2.Decision(approval_id=approval.id, verdict=verdict, **fields)
        return await self.switch.instruct(decision=decision)


@pytest.fixture
async def mill(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Mill]:
    async with machine(tmp_path, model) as mill:
        yield mill


@contextlib.asynccontextmanager
async def machine(tmp_path: Path, model: ScriptedModel, settings: str = "", **env: str) -> AsyncIterator[Mill]:
    checkout(tmp_path / "repo")
    home = tmp_path / "d"
    home.mkdir()
    (home / "daemon.toml").write_text(settings)
    switch = Switch(tmp_path / "ca")
    async with serving(switch) as ports:
        environment = clean_environment({**model.claude_env(tmp_path / "claude"), **env})
        async with daemon_process(home, environment) as daemon:
            await daemon.start(SWITCHBOARD_JOIN=f"{ports.enroll_address} {switch.token} {ports.fleet_address}")
            try:
                await eventually(lambda: switch.stream, SLOW)
                yield Mill(switch, ports, daemon, tmp_path / "repo")
            finally:
                print(daemon.log()[-8_000:])  # shown when the test fails


async def test_a_run_is_started_asks_is_approved_and_changes_its_file(mill: Mill) -> None:
    run = await mill.start(
        [{"text": "I will write it."}, {"tool": "Bash", "input": {"command": "echo hello > made.txt"}}],
        [{"text": "It is there."}],
    )
    approval = await mill.asked(run)
    assert json.loads(approval.input_json)["command"] == "echo hello > made.txt"
    assert not (mill.repo / "made.txt").exists()
    assert "I will write it." in approval.why

    decision = await mill.decide(approval, approve=True)

    await mill.state(run, "idle")
    assert (mill.repo / "made.txt").read_text() == "hello\n"
    await eventually(lambda: "It is there." in mill.switch.text(run))
    applied = approval_pb2.APPLICATION_APPLIED
    await eventually(lambda: mill.switch.decision_receipts(approval.id)[-1].application == applied)
    assert [r.decision_id for r in mill.switch.decision_receipts(approval.id)] == [decision] * 2
    assert [e.seq for e in mill.switch.events[run]] == list(range(1, len(mill.switch.events[run]) + 1))


async def test_a_stop_ends_every_process_and_gives_its_receipt(mill: Mill) -> None:
    token = f"31{secrets.randbelow(10**6)}"
    run = await mill.start(
        [{"tool": "Bash", "input": {"command": f"(setsid sleep {token} &) ; sh -c 'sleep {token}' & sleep {token}"}}]
    )
    approval = await mill.asked(run)
    await mill.decide(approval, approve=True)
    await eventually(lambda: len(alive_with(token)) >= 3, SLOW)

    order = await mill.switch.order(all=True)

    await mill.state(run, "stopped")
    assert alive_with(token) == []
    receipt = await eventually(lambda: mill.switch.receipts(order).get(run))
    assert receipt.outcome == stop_pb2.OUTCOME_ENDED
    assert receipt.proof in (stop_pb2.PROOF_CONTAINED, stop_pb2.PROOF_TRACED)
    await eventually(lambda: mill.switch.receipts(order)[run].safety.id)
    refused = await mill.start([{"text": "hello"}])
    await mill.state(refused, "refused")
    assert f"held by order {order} of ana: incident" in mill.switch.run(refused).reason
