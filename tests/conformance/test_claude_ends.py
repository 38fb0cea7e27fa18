"""How the real claude goes: sent away, killed, or already dead when it was needed."""

import asyncio
import os
import signal
import time

import psutil
import pytest
from helpers.scripted import script

from daemon.agents.driver import AgentGone
from daemon.domain.agent import Answer, Ended, Ready

BASH = {"tool": "Bash", "input": {"command": "touch made"}}
SLOW = [{"text": "a beginning\n"}, {"sleep": 60}, {"text": "never"}]


async def test_an_idle_session_ends_in_good_order(place):
    async with place.running(script([{"text": "one"}])) as (session, host):
        await host.turn()

        await session.end()

        assert await host.ended() == Ended("", 0)
        assert not psutil.pid_exists(session.pid)


async def test_ending_withdraws_the_open_question(place):
    async with place.running(script([BASH])) as (session, host):
        question = await host.question()

        await session.end()

        assert host.withdrawn == [question]
        assert (await host.ended()).reason == ""
        assert not psutil.pid_exists(session.pid)
        assert not (place.cwd / "made").exists()


async def test_ending_twice_and_at_the_same_time_is_fine(place):
    async with place.running(script(SLOW)) as (session, host):
        await host.until(lambda: host.text())

        await asyncio.gather(session.end(), session.end())
        await session.end()

        assert len(host.of(Ended)) == 1


async def test_a_kill_in_the_middle_of_a_turn_is_told(place):
    async with place.running(script(SLOW)) as (session, host):
        await host.until(lambda: host.text())

        os.kill(session.pid, signal.SIGKILL)

        assert await host.ended() == Ended("claude was killed by signal 9 (SIGKILL)", -9)
        with pytest.raises(AgentGone, match="SIGKILL"):
            await session.send("hello?")
        with pytest.raises(AgentGone, match="SIGKILL"):
            await session.interrupt()


async def test_a_kill_while_a_question_is_open_withdraws_it(place):
    async with place.running(script([BASH])) as (session, host):
        question = await host.question()

        os.kill(session.pid, signal.SIGKILL)

        await host.ended()
        await host.until(lambda: host.withdrawn == [question])


async def test_a_polite_signal_is_told_too(place):
    async with place.running(script(SLOW)) as (session, host):
        await host.until(lambda: host.text())

        os.kill(session.pid, signal.SIGTERM)

        ended = await host.ended()
        assert ended.reason == "claude was killed by signal 15 (SIGTERM)"


async def test_an_escapee_that_holds_the_pipes_delays_nothing(place):
    launch = place.launcher(
        'sleep 600 & echo $! >{program}.none 2>/dev/null; exec {program} "$@"'.replace("{program}.none", "escapee")
    )
    async with place.running(script(SLOW), launch=launch) as (session, host):
        await host.until(lambda: host.text())
        escapee = psutil.Process(int((place.cwd / "escapee").read_text()))
        begun = time.monotonic()

        os.kill(session.pid, signal.SIGKILL)
        await host.ended()
        await session.end()

        assert escapee.is_running()
        assert time.monotonic() - begun < 60  # an escapee sleeps ten times as long
        escapee.kill()


async def test_a_session_that_hears_nothing_is_left_within_seconds(place, fake):
    """Stopped by SIGSTOP it neither reads its input nor obeys SIGTERM."""
    async with place.running(script([BASH])) as (session, host):
        await host.question()
        os.kill(session.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):
                await session.end()
            assert (await host.ended()).code is None
        finally:
            os.kill(session.pid, signal.SIGKILL)
        await host.until(lambda: not psutil.pid_exists(session.pid))


async def test_an_answer_after_the_end_changes_nothing(place):
    async with place.running(script([BASH])) as (session, host):
        await host.question()
        os.kill(session.pid, signal.SIGKILL)
        await host.ended()

        with pytest.raises(asyncio.InvalidStateError):
            host.answer(Answer(allow=True))  # the question was withdrawn

        assert not (place.cwd / "made").exists()
        assert host.of(Ready)
