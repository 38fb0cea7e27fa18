"""Every named point has its campaign; and the deaths that have a story of their own: a sign-in, a join, the store itself."""

import asyncio
import re
import signal
from pathlib import Path

import httpx
import psutil
import pytest
from helpers.faults import ALONE, DAEMON, DISK, ELSEWHERE, SERVER
from helpers.scripted import ScriptedModel
from helpers.story import insist
from helpers.world import SLOW, world

SOURCE = Path(__file__).parents[2]


def test_every_named_point_is_in_some_campaign() -> None:
    source = "".join(path.read_text() for part in ("daemon", "switchboard") for path in (SOURCE / part).rglob("*.py"))
    named = set(re.findall(r'faults\.point\("([^"]+)"\)', source))
    named |= {name for pair in re.findall(r'\.writing\("([^"]*)", "([^"]*)"[,)]', source) for name in pair if name}
    assert named - ELSEWHERE == {*DISK, *DAEMON, *SERVER} | ALONE
    tests = "".join(path.read_text() for path in (SOURCE / "tests").rglob("*.py") if path.name != "faults.py")
    assert [name for name in ALONE | ELSEWHERE if name not in tests] == []


async def test_the_server_dies_at_a_sign_in(tmp_path: Path, model: ScriptedModel) -> None:
    async with world(tmp_path, model) as it:
        await it.kill_server()
        await it.serve(SWITCHBOARD_FAULT="service.link.used")
        with pytest.raises(httpx.TransportError):
            await it.sign_in()
        assert it.process is not None
        assert await it.process.wait() == -signal.SIGKILL
        await it.serve()
        # That link is used up; the next one works, and so does the password that was there before.
        await it.sign_in()
        assert (await insist(lambda: it.get("/people")))["people"][0]["id"] == it.person


async def test_the_server_dies_while_a_machine_joins(tmp_path: Path, model: ScriptedModel) -> None:
    async with world(tmp_path, model) as it:
        await it.kill_server()
        await it.serve(SWITCHBOARD_FAULT="service.machine.enrolled")
        joining = asyncio.create_task(it.machine("mill"), name="joining")
        assert it.process is not None
        assert await asyncio.wait_for(it.process.wait(), SLOW) == -signal.SIGKILL
        await it.serve()
        # The daemon asks again with the same key, and is the same machine.
        daemon = await joining
        machines = (await it.get("/machines"))["machines"]
        assert [machine["name"] for machine in machines] == ["mill"], machines
        assert daemon.process is not None
        assert daemon.process.returncode is None


async def test_the_store_dies_while_a_question_is_open(tmp_path: Path, model: ScriptedModel) -> None:
    async with world(tmp_path, model) as it:
        await it.machine("mill")
        run = await it.start("mill", [{"tool": "Bash", "input": {"command": "echo one >> log.txt"}}])
        asked = await it.asked(run)
        store = next(p for p in psutil.process_iter() if p.ppid() == it.process.pid and "valkey" in p.name())
        store.send_signal(signal.SIGKILL)

        # The question is there again, with the same digest, and is decided once.
        again = await insist(lambda: it.asked(run))
        assert again["digest"] == asked["digest"]
        assert (await insist(lambda: it.vote(again, "approve"))).status_code == 200
        await insist(lambda: it.state(run, "idle"))
        assert (it.repo("mill") / "log.txt").read_text() == "one\n"
