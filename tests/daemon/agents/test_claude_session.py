"""A session with a program that behaves as the real claude seldom or never does."""

import asyncio
import contextlib
import json
import shlex
import sys
from pathlib import Path

import pytest
from helpers.host import Host

from daemon.agents import claude_session
from daemon.agents.claude_code import ClaudeCode
from daemon.agents.driver import AgentUnusable, Launch, Spec
from daemon.domain.agent import Answer, Output, OutputKind, QuestionKind

DOUBLE = Path(__file__).with_name("claude_double.py")


@pytest.fixture
def double(tmp_path):
    @contextlib.asynccontextmanager
    async def run(what, listen=True):
        program = tmp_path / "claude"
        argv = shlex.join([sys.executable, "-I", str(DOUBLE), what])
        program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo 2.0.0 && exit\nexec {argv}\n')
        program.chmod(0o755)
        host = Host()
        session = await ClaudeCode(program).start(Spec("r1", tmp_path, "hello", "", Launch(program)), host.ask)
        listening = asyncio.create_task(host.listen(session)) if listen else None
        try:
            yield session, host
        finally:
            await session.end()
            if listening is not None:
                await asyncio.wait_for(listening, 10)

    return run


@pytest.fixture
def heard(tmp_path):
    return lambda: [json.loads(line) for line in (tmp_path / "heard").read_text().splitlines()]


async def test_a_request_that_nobody_knows_is_a_card_with_all_of_it(double, heard):
    async with double("unknown request") as (_, host):
        question = await host.question()
        assert (question.kind, question.tool) == (QuestionKind.UNKNOWN, "open_pod_bay_doors")
        assert question.input == {"subtype": "open_pod_bay_doors", "why": "because"}

        host.answer(Answer(allow=False, message="I'm sorry, Dave"))

        await host.turn()
        assert heard() == [{"subtype": "error", "request_id": "q1", "error": "I'm sorry, Dave"}]


async def test_a_request_that_nobody_knows_can_be_answered(double, heard):
    async with double("unknown request") as (_, host):
        await host.question()

        host.answer(Answer(allow=True, input={"doors": "open"}))

        await host.turn()
        assert heard() == [{"subtype": "success", "request_id": "q1", "response": {"doors": "open"}}]


async def test_a_request_that_cannot_be_put_is_refused_with_the_cause(double, heard):
    async with double("unknown request") as (_, host):
        await host.question()

        host.answer(OSError("the disk is full"))

        await host.turn()
        assert heard()[0]["error"].endswith("could not be put to anyone: the disk is full")


async def test_a_tool_that_is_itself_a_question_is_a_generic_card(double, heard):
    async with double("unknown tool") as (_, host):
        question = await host.question()
        assert (question.kind, question.tool, question.input) == (QuestionKind.UNKNOWN, "AskHal", {"door": 1})

        host.answer(Answer(allow=True))

        await host.turn()
        assert heard()[0]["response"] == {"behavior": "allow", "updatedInput": {"door": 1}}


async def test_suggestions_of_any_shape_are_neither_read_nor_returned(double, heard):
    async with double("strange suggestions") as (_, host):
        question = await host.question()
        assert question.kind is QuestionKind.TOOL

        host.answer(Answer(allow=True))

        await host.turn()
        assert heard()[0]["response"] == {"behavior": "allow", "updatedInput": {"command": "ls"}}


async def test_a_withdrawn_request_is_withdrawn(double):
    async with double("withdrawn") as (session, host):
        question = await host.question()

        await session.send("never mind")

        await host.until(lambda: host.withdrawn == [question])


async def test_a_request_of_a_broken_shape_is_a_card_and_can_be_denied(double, heard):
    async with double("broken request") as (_, host):
        first, second = await host.question(1), await host.question(2)
        assert {first.kind, second.kind} == {QuestionKind.UNKNOWN}
        assert second.input["input"] == "ls"

        host.answer(Answer(allow=False, message="no"), 1)
        host.answer(Answer(allow=False, message="no"), 2)

        await host.turn(2)
        assert [answer["subtype"] for answer in heard()] == ["error", "error"]


async def test_a_flood_that_nobody_reads_makes_the_agent_wait_and_never_hangs_the_end(double):
    async with double("flood", listen=False) as (session, _):
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await session.end()


async def test_a_flood_is_read_whole_and_in_order(double):
    async with double("flood") as (_, host):
        await host.until(lambda: len(host.events) > 20_000)

        assert host.text().splitlines() == [str(n) for n in range(20_000)]


async def test_a_line_too_long_to_keep_is_told_and_passed_over(double):
    async with double("long line") as (_, host):
        assert (await host.turn()).ok

        (notice,) = host.outputs(OutputKind.NOTICE)
        assert notice.text.startswith("a message of 681574")
        assert notice.text.endswith("was too long and is left out")


async def test_a_looser_permission_mode_is_told_on_the_run(double):
    async with double("acceptEdits") as (_, host):
        await host.until(lambda: host.of(Output))

        notice = host.outputs(OutputKind.NOTICE)[0]
        assert notice.text == "permission mode acceptEdits: claude edits files in the checkout without asking"


async def test_a_program_that_never_answers_is_given_up(double, monkeypatch):
    monkeypatch.setattr(claude_session, "START_S", 1.0)
    with pytest.raises(AgentUnusable, match="claude did not answer within 1 s of its start"):
        async with double("silent"):
            pass
