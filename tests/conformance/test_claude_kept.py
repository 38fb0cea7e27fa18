"""The real claude behind its keeper: stopped with everything that it started, and never left alone with its pipes."""

import asyncio
import contextlib
import os
import signal

import psutil
import pytest
from helpers.host import Host
from helpers.processes import alive, token
from helpers.scripted import script

from daemon.agents.driver import Spec
from daemon.clock import SystemClock
from daemon.domain.agent import Answer, OutputKind
from daemon.process import Processes


@pytest.fixture
def kept(place):
    @contextlib.asynccontextmanager
    async def run(prompt):
        async with Processes("mill", place.folder / "home", SystemClock()) as processes:
            host = Host()
            spec = Spec("r1", place.cwd, prompt, "", processes.launch("r1", 1, place.program))
            starting = asyncio.create_task(place.driver.start(spec, host.ask))
            keeper = await processes.keeper("r1", 20)
            session = await starting
            listening = asyncio.create_task(host.listen(session))
            try:
                yield session, host, keeper, processes
            finally:
                await session.end()
                await asyncio.wait_for(listening, 10)
                assert not (await processes.end("r1", grace_s=0, from_rung="kill")).left
                processes.forget("r1")

    return run


def escapees(word):
    """A command that leaves a session of its own, a double fork and an emptied environment behind, and then waits."""
    return (
        f"setsid sleep {word} & (setsid sleep {word} &) ; (setsid env -i sleep {word} &) ; sh -c 'sleep {word}' & wait"
    )


async def test_a_kept_claude_is_asked_answered_and_ends_in_good_order(kept, place):
    bash = {"tool": "Bash", "input": {"command": "echo $SWITCHBOARD_RUN; env | grep -c SWITCHBOARD_KEEPER"}}
    async with kept(script([bash], [{"text": "finished"}])) as (session, host, _, processes):
        await host.question()
        host.answer(Answer(allow=True))
        assert (await host.turn()).ok
        assert host.outputs(OutputKind.TOOL_RESULT)[0].text.split()[-2:] == ["mill/r1", "0"]

        await session.end()

        assert (await host.ended()).code == 0
        assert (await processes.end("r1", grace_s=1)).rung == "none"


async def test_a_stop_ends_claude_and_every_escapee_of_its_commands(kept):
    word = token()
    bash = {"tool": "Bash", "input": {"command": escapees(word)}}
    async with kept(script([bash])) as (_, host, keeper, processes):
        await host.question()
        host.answer(Answer(allow=True))
        await host.until(lambda: len(alive(word)) >= 4)

        emptied = await processes.end("r1", grace_s=0.5, from_rung="terminate")

        assert emptied.left == ()
        assert emptied.processes >= 5
        assert alive(word) == []
        assert not psutil.pid_exists(keeper.agent_pid)
        await host.ended()


async def test_a_claude_that_was_killed_is_told_though_its_escapees_live(kept):
    word = token()
    bash = {"tool": "Bash", "input": {"command": escapees(word)}}
    async with kept(script([bash])) as (_, host, keeper, processes):
        await host.question()
        host.answer(Answer(allow=True))
        await host.until(lambda: len(alive(word)) >= 4)

        os.kill(keeper.agent_pid, signal.SIGKILL)

        ended = await host.ended()
        assert ended.reason == "claude is gone, and something that it started still runs"
        assert await keeper.exited == -9
        assert alive(word)
        assert (await processes.end("r1", grace_s=0)).left == ()
        assert alive(word) == []
