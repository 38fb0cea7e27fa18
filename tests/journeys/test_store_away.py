"""The store goes away under a run that works, stands still or dies, and comes back: nothing is lost, doubled or decided by itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.eventually import eventually
from helpers.scripted import ScriptedModel, scripted_model
from helpers.valkey import own_valkey
from helpers.world import SLOW, world


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


@pytest.mark.parametrize("how", ["stands still", "dies"])
async def test_a_run_goes_on_without_the_store_and_its_question_is_decided_with_it(
    tmp_path: Path, model: ScriptedModel, how: str
) -> None:
    async with own_valkey() as valkey, world(tmp_path, model, SWITCHBOARD_REDIS_URL=valkey.url) as it:
        daemon = await it.machine("mill")
        repo = it.repo("mill")
        waits = "touch began; until [ -e go ]; do sleep 0.05; done; seq -f 'said without the store %g' 200"
        run = await it.start(
            "mill",
            [{"tool": "Bash", "input": {"command": waits}}],
            [{"tool": "Bash", "input": {"command": "echo one >> made.txt"}}],
            [{"text": "It is there.\n"}],
        )
        first = await it.asked(run)
        assert (await it.vote(first, "approve")).status_code == 200
        await eventually((repo / "began").exists, SLOW)

        if how == "dies":
            await valkey.kill()
        else:
            valkey.freeze()

        async def refused() -> str:
            answer = await it.page.get(f"/runs/{run}/output")
            assert answer.status_code == 503, answer.text
            return str(answer.json()["error"])

        assert "\n" not in await eventually(refused, SLOW, "the server to say that its store is away")
        (repo / "go").touch()

        async def asks_on_its_machine() -> bool:
            said = await daemon.ask("status")
            return [(each["id"], each["state"]) for each in said["runs"]] == [(run, "waiting")]  # type: ignore[attr-defined, index]

        await eventually(asks_on_its_machine, SLOW, "the agent to go on and ask again")
        late = await it.vote(first, "deny", note="changed my mind")
        assert late.status_code in (409, 503), late.text
        await refused()
        assert not (repo / "made.txt").exists()

        if how == "dies":
            await valkey.restart()
        else:
            valkey.thaw()

        async def asked_again() -> dict[str, object]:
            answer = await it.page.get("/approvals", params={"state": "open", "run": run})
            assert answer.is_success, answer.text
            found = answer.json()["approvals"]
            assert [approval["id"] != first["id"] for approval in found] == [True]
            return dict(found[0])

        second = await eventually(asked_again, SLOW, "the second question to arrive")

        async def approved() -> bool:
            return (await it.vote(second, "approve")).status_code in (200, 409)

        await eventually(approved, SLOW)
        await it.state(run, "idle")
        assert (repo / "made.txt").read_text() == "one\n"

        async def all_there() -> list[dict[str, object]]:
            events = await it.output(run)
            assert any("It is there." in str(event["text"]) for event in events)
            return events

        events = await eventually(all_there, SLOW)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        printed = [
            line for event in events if event["kind"] == "tool_result" for line in str(event["text"]).splitlines()
        ]
        assert [line for line in printed if line.startswith("said without")] == [
            f"said without the store {n}" for n in range(1, 201)
        ]
