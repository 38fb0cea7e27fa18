"""One machine with a real daemon, a checkout and the real Claude Code, joined to a scripted other end of the wire."""

import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.checkouts import checkout
from helpers.daemons import DaemonProcess, daemon_process
from helpers.eventually import eventually
from helpers.scripted import ScriptedModel, clean_environment, script
from helpers.switch import Ports, Switch, serving
from switchboard_rpc.v1 import approval_pb2, fleet_pb2, run_pb2

SLOW = 60


def bash(command: str) -> dict[str, Any]:
    return {"tool": "Bash", "input": {"command": command}}


@dataclass
class Mill:
    switch: Switch
    ports: Ports
    daemon: DaemonProcess
    root: Path

    @property
    def repo(self) -> Path:
        return self.root / "repo"

    async def start(self, *turns: list[dict[str, Any]], **more: Any) -> str:
        """Tell the daemon to start a run that plays *turns*; return its id."""
        run = f"r-{secrets.token_hex(4)}"
        fields = {"path": str(self.repo), "agent": "claude", "prompt": script(*turns), "owner": "ana", **more}
        await self.switch.instruct(start=fleet_pb2.Start(run_id=run, **fields))
        return run

    async def state(self, run: str, *wanted: str, within: float = SLOW) -> run_pb2.Run:
        def there() -> run_pb2.Run | None:
            found = self.switch.states(run)
            newest = self.switch.run(run)
            reason = newest.reason if newest else "not announced"
            assert set(found[-1:]) & set(wanted), f"it went {found}: {reason}"
            return newest

        found: run_pb2.Run = await eventually(there, within, f"run {run} to be {' or '.join(wanted)}")
        return found

    async def asked(self, run: str) -> approval_pb2.Approval:
        found: approval_pb2.Approval = await eventually(
            lambda: self.switch.open_approval(run), SLOW, f"run {run} to ask"
        )
        return found

    async def decide(
        self, asked: approval_pb2.Approval, approve: bool = True, id: str | None = None, **more: str
    ) -> str:
        verdict = approval_pb2.VERDICT_APPROVE if approve else approval_pb2.VERDICT_DENY
        fields = {"digest": asked.digest, "by": "ben", **more}
        decision = approval_pb2.Decision(approval_id=asked.id, verdict=verdict, **fields)
        return await self.switch.instruct(id, decision=decision)

    async def approved(self, run: str) -> approval_pb2.Approval:
        """Wait for a question and approve it."""
        asked = await self.asked(run)
        await self.decide(asked)
        return asked

    async def outcome(self, instruction: str) -> fleet_pb2.InstructionReport:
        """Wait until *instruction* is done or refused."""

        def done() -> fleet_pb2.InstructionReport | None:
            report = self.switch.report(instruction)
            over = report is not None and report.state != fleet_pb2.REPORT_STATE_DELIVERED
            return report if over else None

        found: fleet_pb2.InstructionReport = await eventually(done, SLOW, f"instruction {instruction} to be done")
        return found

    async def said(self, run: str, text: str) -> None:
        await eventually(lambda: text in self.switch.text(run), SLOW, f"run {run} to say {text!r}")

    async def query(self, **kind: Any) -> Any:
        """Ask the machine, and return what it answers; its refusal is an AssertionError."""
        id = await self.switch.instruct(query=fleet_pb2.Query(**kind))
        body, error = await eventually(lambda: self.switch.answers.get(id), SLOW)
        assert not error, error
        return json.loads(body)


@contextlib.asynccontextmanager
async def mill(
    root: Path, model: ScriptedModel, settings: str = "", fault: str = "", **env: str
) -> AsyncIterator[Mill]:
    """A machine that has joined and attached; *fault* is where its first daemon dies."""
    if not (root / "repo").exists():
        checkout(root / "repo")
    home = root / "d"
    home.mkdir(exist_ok=True)
    (home / "daemon.toml").write_text(settings)
    switch = Switch(root / "ca")
    async with serving(switch) as ports:
        environment = clean_environment({**model.claude_env(root / "claude"), **env})
        async with daemon_process(home, environment) as daemon:
            joins = f"{ports.enroll_address} {switch.token} {ports.fleet_address}"
            await daemon.start(SWITCHBOARD_JOIN=joins, SWITCHBOARD_FAULT=fault)
            try:
                await eventually(lambda: switch.stream, SLOW, "the daemon to attach")
                yield Mill(switch, ports, daemon, root)
            finally:
                print(daemon.log()[-8_000:])  # shown when the test fails
