"""A machine whose link is cut while its runs live: what was ordered meanwhile comes before all that was asked of it meanwhile."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.daemons import alive_with
from helpers.eventually import eventually
from helpers.relay import relay
from helpers.scripted import ScriptedModel, script, scripted_model
from helpers.world import SLOW, World, world


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


async def test_a_machine_that_was_away_with_a_live_run_obeys_before_anything_else(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with world(tmp_path, model) as it, relay(it.facts["grpc"]) as link:
        await it.machine("forge", fleet=link.address)
        token = f"33{secrets.randbelow(10**6):06}"
        sleeping = {"tool": "Bash", "input": {"command": f"(setsid sleep {token} &) ; sh -c 'sleep {token}'"}}
        live = await it.start("forge", [sleeping])
        assert (await it.vote(await it.asked(live), "approve")).status_code == 200
        await eventually(lambda: len(alive_with(token)) >= 2, SLOW)

        # While nothing passes, people still ask things of it: a word, another run, and only then the stop.
        link.hold()
        word = await it.post(f"/runs/{live}/messages", text=script([{"text": "never said\n"}]))
        late = await it.start("forge", [{"tool": "Bash", "input": {"command": "echo never > never.txt"}}])
        order = (await it.post("/orders", selector={"all": True}, reason="payments is down", hold=True))["order"]["id"]
        link.cut()
        await eventually(lambda: _away(it, "forge"), SLOW)
        assert len(alive_with(token)) >= 2, "nobody has told it yet"
        assert await _standings(it, order) == {live: "unreachable", late: "unreachable"}

        link.mend()

        async def proven() -> bool:
            return await _standings(it, order) == {live: "ended", late: "refused"}

        await eventually(proven, SLOW)
        assert alive_with(token) == []
        assert (await it.state(live, "stopped"))["reason"].endswith("payments is down")
        # The word that had waited for longer met a run that was being stopped already.
        told = await eventually(lambda: _settled(it, word["instruction"]["id"]), SLOW)
        assert told["state"] == "failed", told
        assert "never said" not in await it.text(live)
        assert (await it.state(late, "refused"))["attempt"] == 1
        assert not (it.repo("forge") / "never.txt").exists()


async def test_a_start_that_an_order_has_overtaken_begins_nothing(tmp_path: Path, model: ScriptedModel) -> None:
    async with world(tmp_path, model) as it, relay(it.facts["grpc"]) as link:
        await it.machine("forge", fleet=link.address)
        never = [{"tool": "Bash", "input": {"command": "echo never > never.txt"}}]

        link.hold()
        named, swept = await it.start("forge", never), await it.start("forge", never)
        stop = (await it.post(f"/runs/{named}/stop", reason="wrong branch"))["order"]["id"]
        sweep = (await it.post("/orders", selector={"all": True}, reason="all of these", hold=False))["order"]["id"]
        link.cut()
        await eventually(lambda: _away(it, "forge"), SLOW)
        link.mend()

        async def proven() -> bool:
            found = await _standings(it, stop), await _standings(it, sweep)
            assert found == ({named: "refused"}, {named: "refused", swept: "refused"}), found
            return True

        await eventually(proven, SLOW)
        assert (await it.state(named, "refused"))["reason"] == f"stopped by order {stop} of ana: wrong branch"
        assert (await it.state(swept, "refused"))["reason"] == f"stopped by order {sweep} of ana: all of these"
        # Neither order holds anything back: what is started from now on goes ahead.
        await it.state(await it.start("forge", [{"text": "Back to work.\n"}]), "idle")
        assert not (it.repo("forge") / "never.txt").exists()


async def _settled(it: World, instruction: str) -> dict[str, str] | None:
    found = (await it.get(f"/instructions/{instruction}"))["instruction"]
    return dict(found) if found["state"] in ("applied", "failed", "lapsed") else None


async def _away(it: World, name: str) -> bool:
    machines = (await it.get("/machines"))["machines"]
    return not next(m for m in machines if m["name"] == name)["attached"]


async def _standings(it: World, order: str) -> dict[str, str]:
    return {row["run"]: row["standing"] for row in (await it.get(f"/orders/{order}"))["rows"]}
