"""The command line against a real server, a real daemon and the real Claude Code: said, decided, stopped, taken up again."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.eventually import eventually
from helpers.scripted import ScriptedModel, script, scripted_model
from helpers.terminal import Spoken
from helpers.ups import cli
from helpers.world import PASSWORD, SLOW, World, world


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


async def said(it: World, *words: str, input: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command as the first person, whose password comes on stdin before *input*."""
    named = ("--as", it.person, "--password-stdin")
    env = {"SWITCHBOARD_URL": it.facts["http"]}
    done = await asyncio.to_thread(cli, *words, *named, input=f"{PASSWORD}\n{input}", env=env)
    assert done.returncode == 0, done.stderr
    return done


async def watching(it: World) -> Spoken:
    token = (await it.post("/tokens", name="watch", permits=["look"], days=1))["token"]
    env = {**os.environ, "SWITCHBOARD_URL": it.facts["http"], "SWITCHBOARD_TOKEN": token}
    return Spoken([sys.executable, "-m", "switchboard", "runs", "--watch", "--json"], env, terminal=False)


async def test_a_run_is_started_decided_stopped_and_resumed_on_the_command_line(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with world(tmp_path, model) as it:
        await it.machine("mill")
        watched = await watching(it)

        def states() -> list[list[str]]:
            lines = watched.said.splitlines(keepends=True)
            return [[row["state"] for row in json.loads(line)["runs"]] for line in lines if line.endswith("}\n")]

        await eventually(lambda: states() == [[]], SLOW)
        turns = script([{"tool": "Bash", "input": {"command": "echo asked > made.txt"}}], [{"text": "It is there.\n"}])
        started = await said(it, "run", "start", "--machine", "mill", "--repo", str(it.repo("mill")), "-", input=turns)
        run = started.stdout.strip()
        asked = await it.asked(run)
        await eventually(lambda: ["waiting"] in states(), SLOW)

        edited = json.dumps({"command": "echo я > made.txt"})
        approved = await said(it, "approve", asked["id"], "--input", "-", input=edited)
        assert f"{asked['id']} is approved; delivery: applied" in approved.stdout
        await it.state(run, "idle")
        assert (it.repo("mill") / "made.txt").read_text() == "я\n"
        assert "+я" in (await said(it, "run", "diff", run)).stdout
        await eventually(lambda: states()[-1] == ["idle"], SLOW)

        order = (await said(it, "run", "stop", run, "--reason", "it is done")).stdout.strip()
        assert "1 of 1 runs proven (1 ended)" in (await said(it, "stop", "status", "--wait", order)).stdout
        await it.state(run, "stopped")
        await eventually(lambda: states()[-1] == [], SLOW)

        resumed = await said(it, "run", "resume", run, "-", input=script([{"text": "Again.\n"}]))
        assert resumed.stdout == "applied\n"
        assert (await it.state(run, "idle"))["attempt"] == 2
        await eventually(lambda: states()[-1] == ["idle"], SLOW)
        watched.process.send_signal(signal.SIGINT)
        assert await watched.ended() == 130
        watched.close()
