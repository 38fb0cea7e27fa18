"""What the real claude says during its turns, and how a turn is cut short, followed up and taken up again."""

import json

import psutil
from helpers.scripted import nested, script

from daemon.domain.agent import Answer, OutputKind, Ready, TurnEnded, TurnStarted

BASH = {"tool": "Bash", "input": {"command": "touch made"}}
WORDS = "the first line\nand the second\nand an end without a newline"


async def test_words_are_streamed_in_whole_lines_and_come_once(place):
    turn = [{"thinking": "let me\nsee"}, {"text": WORDS}, {"text": "a block of its own"}]
    async with place.running(script(turn)) as (_, host):
        assert (await host.turn()).ok

        said = host.outputs(OutputKind.MESSAGE)
        assert [output.text for output in said] == [*WORDS.splitlines(keepends=True), "a block of its own"]
        assert len({output.block for output in said[:3]}) == 1
        assert said[3].block != said[0].block
        assert host.text(OutputKind.THINKING) == "let me\nsee"


async def test_a_turn_tells_its_story_in_order(place):
    async with place.running(script([{"text": "I will look."}, BASH], [{"text": "finished"}])) as (_, host):
        await host.question()
        host.answer(Answer(allow=True))
        await host.turn()

        kinds = [getattr(event, "kind", type(event)) for event in host.events]
        kinds = [kind for kind in kinds if kind is not OutputKind.NOTICE]  # a slow machine makes it remark on things
        assert kinds == [
            Ready,
            TurnStarted,
            OutputKind.MESSAGE,
            OutputKind.TOOL_CALL,
            OutputKind.TOOL_RESULT,
            OutputKind.MESSAGE,
            OutputKind.TURN_END,
            TurnEnded,
        ]
        ready = host.of(Ready)[0]
        assert (ready.version, ready.permission_mode) == ("2.1.330", "default")
        assert ready.session
        assert ready.model
        end = host.outputs(OutputKind.TURN_END)[0].detail
        assert end["num_turns"] == 2
        assert end["duration_ms"] > 0
        assert end["usage"]["output_tokens"] > 0
        call, result = host.outputs(OutputKind.TOOL_CALL)[0], host.outputs(OutputKind.TOOL_RESULT)[0]
        assert (call.tool, call.block) == (result.tool, result.block)
        assert call.detail == {"command": "touch made"}


async def test_the_output_of_a_command_is_its_result(place):
    loud = {"tool": "Bash", "input": {"command": "echo out; echo err >&2; exit 3"}}
    async with place.running(script([loud])) as (_, host):
        await host.question()
        host.answer(Answer(allow=True))
        await host.turn()

        result = host.outputs(OutputKind.TOOL_RESULT)[0]
        assert "out" in result.text
        assert "err" in result.text
        assert result.detail["is_error"] is True


async def test_a_subagents_work_is_told_as_its_own(place):
    touch = {"tool": "Bash", "input": {"command": "touch sub"}}
    errand = nested([{"text": "on my errand"}, touch], [{"text": "back"}])
    agent = {
        "tool": "Agent",
        "input": {"description": "errand", "prompt": errand, "subagent_type": "general-purpose"},
    }
    async with place.running(script([agent], [{"text": "over"}])) as (_, host):
        await host.question()
        host.answer(Answer(allow=False, message="no errands"))
        await host.until(lambda: "over" in host.text())

        call = host.outputs(OutputKind.TOOL_CALL)[0]
        parts = [output for output in host.outputs(OutputKind.MESSAGE) if output.detail.get("parent") == call.block]
        assert "on my errand" in "".join(part.text for part in parts)
        assert not (place.cwd / "sub").exists()


async def test_an_interrupt_withdraws_the_open_question(place):
    async with place.running(script([BASH])) as (session, host):
        question = await host.question()

        await session.interrupt()

        await host.until(lambda: host.withdrawn == [question])
        turn = await host.turn()
        assert (turn.ok, turn.interrupted, turn.reason) == (False, True, "the turn was interrupted")
        assert not (place.cwd / "made").exists()


async def test_an_interrupt_ends_a_running_command_and_the_session_goes_on(place):
    slow = {"tool": "Bash", "input": {"command": "touch begun; sh -c 'sleep 61.25' & sleep 61.25; touch made"}}
    async with place.running(script([slow])) as (session, host):
        await host.question()
        host.answer(Answer(allow=True))
        await host.until((place.cwd / "begun").exists)

        await session.interrupt()

        assert (await host.turn()).interrupted
        assert not [p for p in psutil.process_iter(["cmdline"]) if "61.25" in " ".join(p.info["cmdline"] or ())]
        await session.send(script([{"text": "at your service"}]))
        assert (await host.turn(2)).ok
        assert host.text() == "at your service"


async def test_an_interrupt_in_the_middle_of_a_sentence_keeps_what_was_said(place):
    async with place.running(script([{"text": WORDS + "\n" + "word " * 500, "delay": 0.05}])) as (session, host):
        await host.until(lambda: "and the second" in host.text())

        await session.interrupt()

        assert (await host.turn()).interrupted
        assert host.text().startswith("the first line\nand the second\n")
        assert host.text().count("the first line") == 1


async def test_a_follow_up_while_idle_is_a_turn_of_its_own(place):
    async with place.running(script([{"text": "one"}])) as (session, host):
        await host.turn(1)
        await session.send(script([{"text": "two"}]))
        await host.turn(2)

        assert host.text() == "onetwo"
        assert len(host.of(TurnStarted)) == 2
        assert len(host.of(Ready)) == 1


async def test_a_follow_up_during_a_turn_is_heard(place, model):
    async with place.running(script([BASH], [{"text": "finished"}])) as (session, host):
        await host.question()
        await session.send("and mind the gap")
        host.answer(Answer(allow=True))
        await host.until(
            lambda: "and mind the gap" in json.dumps([r["last"] for r in model.requests(host.events[0].session)])
        )


async def test_a_session_is_taken_up_again_under_its_own_name(place):
    async with place.running(script([{"text": "one"}])) as (_, host):
        await host.turn()
        name = host.of(Ready)[0].session

    async with place.running(script([{"text": "two"}]), resume=name) as (_, host):
        assert (await host.turn()).ok
        assert host.of(Ready)[0].session == name
        assert host.text() == "two"


async def test_a_session_taken_up_without_a_word_is_ready_and_waits(place):
    async with place.running(script([{"text": "one"}])) as (_, host):
        await host.turn()
        name = host.of(Ready)[0].session

    async with place.running("", resume=name) as (session, host):
        ready = await host.until(lambda: host.of(Ready) and host.of(Ready)[0])
        assert (ready.session, ready.version, ready.permission_mode) == (name, "2.1.330", "default")
        assert not host.of(TurnStarted)
        await session.send(script([{"text": "two"}]))
        assert (await host.turn()).ok


async def test_a_prompt_and_an_answer_of_a_megabyte_pass(place):
    big = "x" * (1 << 20)
    write = {"tool": "Write", "input": {"file_path": str(place.cwd / "big"), "content": big}}
    async with place.running(big + script([write], [{"text": "finished"}])) as (_, host):
        question = await host.question()
        assert len(question.diff.encode()) < 66_000
        assert "the whole diff has" in question.diff

        host.answer(Answer(allow=True))

        assert (await host.turn()).ok
        assert (place.cwd / "big").read_text() == big


async def test_an_unreachable_model_is_told_as_the_turns_reason(place):
    place.extra |= {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "CLAUDE_CODE_MAX_RETRIES": "0"}
    async with place.running(script([{"text": "never"}])) as (_, host):
        turn = await host.turn()
        assert not turn.ok
        assert not turn.interrupted
        assert turn.reason
