"""Three machines, two people: who may decide, and a stop that reaches the machine which was away before anything else does."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.daemons import alive_with
from helpers.eventually import eventually
from helpers.scripted import ScriptedModel, scripted_model
from helpers.world import PASSWORD, SLOW, World, world


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


async def test_a_stop_of_three_machines_with_one_away(tmp_path: Path, model: ScriptedModel) -> None:
    async with world(tmp_path, model) as it:
        tokens = {name: f"32{secrets.randbelow(10**6):06}" for name in ("mill", "loom", "forge")}
        runs: dict[str, str] = {}
        for name, token in tokens.items():
            await it.machine(name)
            runs[name] = await it.start(name, _sleeping(token))
            assert (await it.vote(await it.asked(runs[name]), "approve")).status_code == 200
        for token in tokens.values():
            await eventually(lambda token=token: len(alive_with(token)) >= 2, SLOW)  # type: ignore[misc]

        # The forge loses its daemon: its keeper ends the run without it, and nobody can yet say so.
        await it.daemons["forge"].kill()
        await eventually(lambda: alive_with(tokens["forge"]) == [], SLOW)
        await eventually(lambda: _away(it, "forge"), SLOW)

        order = (await it.post("/orders", selector={"all": True}, reason="payments is down", hold=True))["order"]["id"]

        async def proven() -> bool:
            standings = await _standings(it, order)
            return standings == {runs["mill"]: "ended", runs["loom"]: "ended", runs["forge"]: "unreachable"}

        await eventually(proven, SLOW)
        assert [alive_with(tokens[name]) for name in ("mill", "loom")] == [[], []]
        status = await it.get(f"/orders/{order}")
        assert status["machines"]["away"] == ["forge"]

        # What starts while the order stands is refused, with the words of whoever ordered it.
        refused = await it.api.post("/runs", json=it.wanted("mill", [{"text": "hello"}]))
        assert refused.status_code == 409
        assert "payments is down" in refused.json()["error"]

        # The forge comes back: it obeys before anything else, and its proof completes the picture.
        await it.daemons["forge"].start()

        async def complete() -> bool:
            return set((await _standings(it, order)).values()) == {"ended"}

        await eventually(complete, SLOW)
        receipts = [row["receipt"] for row in (await it.get(f"/orders/{order}"))["rows"]]
        assert [(receipt["outcome"], bool(receipt["proof"])) for receipt in receipts] == [("ended", True)] * 3
        assert (await it.run(runs["forge"]))["state"] in ("stopped", "interrupted")

        lifted = await it.api.post(f"/orders/{order}/lift", json={"reason": "payments is back"})
        assert lifted.status_code == 200, lifted.text
        again = await it.start("forge", [{"text": "Back to work.\n"}])
        await it.state(again, "idle")


async def test_whoever_runs_the_agent_does_not_approve_for_it(tmp_path: Path, model: ScriptedModel) -> None:
    async with world(tmp_path, model) as it:
        await it.machine("mill")
        ben = await _invited(it, "ben", "reviewer")
        kim = await _invited(it, "kim", "viewer")
        run = await it.start("mill", [{"tool": "Bash", "input": {"command": "echo one >> log.txt"}}])
        asked = await it.asked(run)
        vote = {"verdict": "approve", "digest": asked["digest"]}
        path = f"/approvals/{asked['id']}/votes"

        own = await it.api.post(path, json=vote)
        assert own.status_code == 403, own.text
        assert "somebody else decides" in own.json()["error"]
        async with it.client(auth=(kim, PASSWORD)) as viewer:
            assert (await viewer.post(path, json=vote)).status_code == 403
        async with it.client(
            headers={"authorization": f"Bearer {(await it.ask('token', machine=it.machines['mill']))['token']}"}
        ) as token:
            assert (await token.post(path, json=vote)).status_code == 403
        assert not (it.repo("mill") / "log.txt").exists()

        async with it.client(auth=(ben, PASSWORD)) as reviewer:
            stale = await reviewer.post(path, json={**vote, "digest": "sha256:" + "0" * 64})
            assert stale.status_code == 409, stale.text
            assert (await reviewer.post(path, json=vote)).status_code == 200
        await it.state(run, "idle")
        assert (it.repo("mill") / "log.txt").read_text() == "one\n"

        # The audit says who did what.
        audited = (await it.get("/audit"))["entries"]
        assert ("approval.voted", "ben") in {(entry["action"], entry["by"]) for entry in audited}


async def _invited(it: World, name: str, role: str) -> str:
    found = await it.post("/people", id=name, display=name.title(), role=role)
    secret = found["link"].partition("#")[2]
    async with it.client() as guest:
        answer = await guest.post("/session/link", json={"secret": secret, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
    return name


def _sleeping(token: str) -> list[dict[str, Any]]:
    return [{"tool": "Bash", "input": {"command": f"(setsid sleep {token} &) ; sh -c 'sleep {token}'"}}]


async def _away(it: World, name: str) -> bool:
    machines = (await it.get("/machines"))["machines"]
    return not next(m for m in machines if m["name"] == name)["attached"]


async def _standings(it: World, order: str) -> dict[str, str]:
    return {row["run"]: row["standing"] for row in (await it.get(f"/orders/{order}"))["rows"]}
