"""What the README tells a newcomer to do, word by word: `up`, a password, the first approval, the first stop and its proof."""

import json
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.checkouts import checkout
from helpers.eventually import eventually
from helpers.processes import alive
from helpers.scripted import ScriptedModel, script, scripted_model
from helpers.terminal import Spoken
from helpers.ups import Up, cli

PASSWORD = "a newcomer's password"
SLOW = 60


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


@pytest.fixture
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sbn-") as folder:
        yield Path(folder) / "d"


async def test_the_first_minutes(data: Path, tmp_path: Path, model: ScriptedModel) -> None:
    repo = tmp_path / "repo"
    checkout(repo)
    async with Up(data, terminal=True, env=model.claude_env(tmp_path / "claude")) as up:
        known = await up.ready()
        env = {"SWITCHBOARD_DATA": str(data)}
        assert "claude" in up.said
        assert "signed in" in up.said
        chosen = cli("passwd", "--link", input=f"{up.links()[0]}\n{PASSWORD}\n", env=env)
        assert chosen.returncode == 0, chosen.stderr

        def asked() -> dict[str, Any] | None:
            found = json.loads(cli("approvals", "--json", env=env).stdout)["approvals"]
            return found[0] if found else None

        prompt = script(
            [{"text": "I write it.\n"}, {"tool": "Bash", "input": {"command": "echo hello > made.txt"}}],
            [{"text": "It is there.\n"}],
        )
        argv = [
            sys.executable,
            "-m",
            "switchboard",
            "run",
            "start",
            "--repo",
            str(repo),
            "--agent",
            "claude",
            "--follow",
            prompt,
        ]
        following = Spoken(argv, {**up.env, **env}, terminal=True)
        await following.says("I write it.", within=SLOW)
        await following.says("— it waits for a decision: switchboard approve ", within=SLOW)
        question = await eventually(asked, within=SLOW)
        assert not (repo / "made.txt").exists()

        deciding = Spoken(
            [sys.executable, "-m", "switchboard", "approve", question["id"]], {**up.env, **env}, terminal=True
        )
        await deciding.says(f"Password of {known['person']}: ")
        assert "echo hello > made.txt" in deciding.said
        assert question["digest"] in deciding.said
        deciding.type(PASSWORD + "\n")
        assert await deciding.ended() == 0
        deciding.close()
        await following.says("It is there.", within=SLOW)
        await following.says("— the turn is over", within=SLOW)
        following.type("\x03")
        assert await following.ended() == 130
        assert "the run goes on" in following.said
        following.close()
        assert (repo / "made.txt").read_text() == "hello\n"
        run = question["run"]
        assert "+hello" in cli("run", "diff", run, env=env).stdout

        # The second: stopped with everything that it started.
        word = f"31{secrets.randbelow(10**6):06}"
        again = script([{"tool": "Bash", "input": {"command": f"(setsid sleep {word} &) ; sleep {word}"}}])
        second = cli("run", "start", "--repo", str(repo), again, env=env)
        assert second.returncode == 0, second.stderr
        question = await eventually(asked, within=SLOW)
        assert cli("approve", question["id"], "--password-stdin", input=PASSWORD + "\n", env=env).returncode == 0
        await eventually(lambda: len(alive(word)) >= 2, within=SLOW)
        stopping = cli("stop", "order", "--all", "--reason", "that is enough", env=env)
        assert stopping.returncode == 0, stopping.stderr
        order = stopping.stdout.strip()
        proof = cli("stop", "status", "--wait", order, env=env)
        assert (proof.returncode, alive(word)) == (0, []), proof.stdout
        assert "2 of 2 runs proven" in proof.stdout
        held = cli("run", "start", "--repo", str(repo), "go on", env=env)
        assert held.returncode == 1
        assert "that is enough" in held.stderr
        lifted = cli("stop", "lift", order, "--reason", "go on", "--password-stdin", input=PASSWORD + "\n", env=env)
        assert lifted.returncode == 0, lifted.stderr
        saved = json.loads(cli("safety", "list", "--json", env=env).stdout)
        assert any(run in json.dumps(copy) for copy in saved if isinstance(saved, list)) or run in json.dumps(saved)
        up.type("\x03")
        assert await up.ended() == 0
        assert up.left() == []
