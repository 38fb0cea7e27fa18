"""The main job, end to end: a real Claude Code run is started, watched, decided and stopped through the switchboard."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.daemons import alive_with
from helpers.eventually import eventually
from helpers.processes import sleepers
from helpers.scripted import ScriptedModel, scripted_model
from helpers.world import SLOW, world


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


async def test_the_first_run(tmp_path: Path, model: ScriptedModel) -> None:
    async with world(tmp_path, model) as it:
        await it.machine("mill")
        made = it.repo("mill") / "made.txt"

        run = await it.start(
            "mill",
            [{"text": "I will write it.\n"}, {"tool": "Bash", "input": {"command": "echo hello > made.txt"}}],
            [{"text": "It is there.\n"}],
        )
        asked = await it.asked(run)
        assert json.loads(asked["input_json"])["command"] == "echo hello > made.txt"
        assert (await it.state(run, "waiting"))["waits_for"] == asked["id"]
        assert "I will write it." in await it.text(run)
        assert not made.exists()

        answer = await it.vote(asked, "approve")
        assert answer.status_code == 200, answer.text

        await it.state(run, "idle")
        assert made.read_text() == "hello\n"

        async def applied() -> bool:
            return bool((await it.get(f"/approvals/{asked['id']}"))["delivery"] == "applied")

        await eventually(applied)

        async def said() -> bool:
            return "It is there." in await it.text(run)

        await eventually(said)
        events = await it.output(run)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        diff = await it.get(f"/runs/{run}/diff")
        assert [(file["path"], file["status"]) for file in diff["files"]] == [("made.txt", "added")]
        late = await it.vote(asked, "deny", note="too late")
        assert late.status_code == 409
        assert it.person in late.json()["error"]

        # The next run is stopped with all of its processes, those that got away from it included.
        token = f"31{secrets.randbelow(10**6):06}"
        escapees = f"(setsid sleep {token} &) ; (setsid env -i sleep {token} &) ; sh -c 'sleep {token}'"
        second = await it.start("mill", [{"tool": "Bash", "input": {"command": escapees}}])
        assert (await it.vote(await it.asked(second), "approve")).status_code == 200
        await eventually(lambda: len(sleepers(token)) == 3, SLOW)

        order = (await it.post(f"/runs/{second}/stop", reason="it is on the wrong branch"))["order"]

        stopped = await it.state(second, "stopped")
        assert alive_with(token) == []
        assert "it is on the wrong branch" in stopped["reason"]

        async def proven() -> dict[str, object]:
            rows = (await it.get(f"/orders/{order['id']}"))["rows"]
            assert [(row["run"], row["standing"]) for row in rows] == [(second, "ended")]
            return dict(rows[0]["receipt"])

        receipt = await eventually(proven)
        assert receipt["proof"] in ("contained", "traced")
        assert receipt["processes"] >= 4
