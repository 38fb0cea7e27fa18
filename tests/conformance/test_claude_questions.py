"""Every kind of question that the real claude asks, and every answer."""

import json
import sys
from pathlib import Path

import pytest
from helpers.scripted import script

from daemon.domain.agent import Answer, OutputKind, QuestionKind

FORMS = Path(__file__).with_name("forms_server.py")
BASH = {"tool": "Bash", "input": {"command": "touch made"}}
DONE = [{"text": "finished"}]
COLOURS = {
    "question": "Which colour?",
    "header": "Colour",
    "multiSelect": False,
    "options": [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}],
}


def told(model, session, call):
    """What the model was told about one tool call."""
    for request in model.requests(session):
        content = (request["last"] or {}).get("content")
        for part in content if isinstance(content, list) else []:
            if part.get("tool_use_id") == call:
                return part
    raise AssertionError(f"the model never heard of {call}")


async def test_a_command_runs_once_it_is_allowed(place):
    async with place.running(script([BASH], DONE)) as (_, host):
        question = await host.question()
        assert (question.kind, question.tool) == (QuestionKind.TOOL, "Bash")
        assert question.input["command"] == "touch made"
        assert question.call == host.outputs(OutputKind.TOOL_CALL)[0].block
        assert not (place.cwd / "made").exists()

        host.answer(Answer(allow=True))

        assert (await host.turn()).ok
        assert (place.cwd / "made").exists()
        assert host.text() == "finished"


async def test_an_edited_command_runs_instead_of_the_one_that_was_asked_for(place):
    async with place.running(script([BASH], DONE)) as (_, host):
        await host.question()

        host.answer(Answer(allow=True, input={"command": "touch other"}))

        assert (await host.turn()).ok
        assert [path.name for path in place.cwd.iterdir()] == ["other"]


async def test_a_denial_reaches_the_model_in_its_words_and_the_turn_goes_on(place, model):
    async with place.running(script([BASH], DONE)) as (_, host):
        question = await host.question()

        host.answer(Answer(allow=False, message="ana says: not on a Friday"))

        assert (await host.turn()).ok
        session = host.events[0].session
        assert told(model, session, question.call)["content"] == "ana says: not on a Friday"
        assert told(model, session, question.call)["is_error"] is True
        assert host.outputs(OutputKind.TOOL_RESULT)[0].detail["is_error"] is True
        assert not (place.cwd / "made").exists()
        assert host.text() == "finished"


async def test_a_denial_can_end_the_turn(place):
    async with place.running(script([BASH], DONE)) as (session, host):
        await host.question()

        host.answer(Answer(allow=False, message="stop", interrupt=True))

        turn = await host.turn()
        assert (turn.ok, turn.interrupted) == (False, True)
        assert not (place.cwd / "made").exists()
        await session.send(script([{"text": "still here"}]))
        assert (await host.turn(2)).ok
        assert host.text() == "still here"


async def test_a_question_that_cannot_be_put_is_a_no_with_the_true_cause(place, model):
    async with place.running(script([BASH], DONE)) as (_, host):
        question = await host.question()

        host.answer(RuntimeError("the journal's disk is full"))

        assert (await host.turn()).ok
        assert "the journal's disk is full" in told(model, host.events[0].session, question.call)["content"]
        assert not (place.cwd / "made").exists()


async def test_parallel_commands_are_each_asked(place):
    both = [BASH, {"tool": "Bash", "input": {"command": "touch second"}}]
    async with place.running(script(both, DONE)) as (_, host):
        await host.question(1)
        host.answer(Answer(allow=False, message="no"), 1)
        await host.question(2)
        host.answer(Answer(allow=True), 2)

        assert (await host.turn()).ok
        assert [path.name for path in place.cwd.iterdir()] == ["second"]


async def test_an_edit_is_asked_with_its_diff_and_can_be_changed(place):
    file = place.cwd / "a.txt"
    file.write_text("one\ntwo\nthree\n")
    read = {"tool": "Read", "input": {"file_path": str(file)}}
    edit = {"tool": "Edit", "input": {"file_path": str(file), "old_string": "two", "new_string": "2"}}
    async with place.running(script([read], [edit], DONE)) as (_, host):
        question = await host.question()
        assert question.diff == "--- a/a.txt\n+++ b/a.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"

        host.answer(Answer(allow=True, input={**question.input, "new_string": "zwei"}))

        assert (await host.turn()).ok
        assert file.read_text() == "one\nzwei\nthree\n"


async def test_a_file_to_be_written_is_asked_with_its_content(place):
    write = {"tool": "Write", "input": {"file_path": str(place.cwd / "b.txt"), "content": "hello\n"}}
    async with place.running(script([write], DONE)) as (_, host):
        question = await host.question()
        assert question.diff == "--- /dev/null\n+++ b/b.txt\n@@ -0,0 +1 @@\n+hello\n"

        host.answer(Answer(allow=True))

        assert (await host.turn()).ok
        assert (place.cwd / "b.txt").read_text() == "hello\n"


async def test_no_suggestion_is_handed_back_so_the_next_write_is_asked_again(place):
    writes = [[{"tool": "Write", "input": {"file_path": str(place.cwd / name), "content": "x"}}] for name in "ab"]
    async with place.running(script(*writes, DONE)) as (_, host):
        await host.question(1)
        host.answer(Answer(allow=True), 1)
        await host.question(2)
        host.answer(Answer(allow=False, message="one is enough"), 2)

        assert (await host.turn()).ok
        assert [path.name for path in place.cwd.iterdir()] == ["a"]


async def test_a_choice_is_answered_with_what_was_chosen(place, model):
    choice = {"tool": "AskUserQuestion", "input": {"questions": [COLOURS]}}
    async with place.running(script([choice], DONE)) as (_, host):
        question = await host.question()
        assert question.kind is QuestionKind.CHOICE
        assert question.input["questions"][0]["options"][1]["label"] == "Blue"

        host.answer(Answer(allow=True, input={"answers": {"Which colour?": "Blue"}}))

        assert (await host.turn()).ok
        assert '"Which colour?"="Blue"' in told(model, host.events[0].session, question.call)["content"]


@pytest.mark.parametrize(
    ("answer", "heard"),
    [
        (Answer(allow=True), "the question was allowed but not answered"),
        (Answer(allow=False, message="nobody knows"), "nobody knows"),
    ],
)
async def test_a_choice_without_an_answer_is_a_no(place, model, answer, heard):
    choice = {"tool": "AskUserQuestion", "input": {"questions": [COLOURS]}}
    async with place.running(script([choice], DONE)) as (_, host):
        question = await host.question()

        host.answer(answer)

        assert (await host.turn()).ok
        assert told(model, host.events[0].session, question.call)["content"] == heard


@pytest.fixture
def with_forms(place):
    """An MCP server of the user's own that asks them for a form."""
    server = {"type": "stdio", "command": sys.executable, "args": [str(FORMS)]}
    (place.config / ".claude.json").write_text(json.dumps({"mcpServers": {"forms": server}}))
    place.extra["MCP_CONNECTION_NONBLOCKING"] = "0"  # the model speaks once the server is there
    return place


BOOK = {"tool": "mcp__forms__book", "input": {}}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(allow=True, input={"name": "ana", "seats": 3}), "accept name='ana' seats=3"),
        (Answer(allow=False, message="no"), "decline None"),
    ],
)
async def test_a_form_of_an_mcp_server_is_a_question(with_forms, model, answer, outcome):
    async with with_forms.running(script([BOOK], DONE)) as (_, host):
        tool = await host.question(1)
        assert (tool.kind, tool.tool) == (QuestionKind.TOOL, "mcp__forms__book")
        host.answer(Answer(allow=True), 1)
        form = await host.question(2)
        assert (form.kind, form.tool) == (QuestionKind.ELICITATION, "forms")
        assert form.input["message"] == "How many seats?"
        assert form.input["requested_schema"]["required"] == ["name"]

        host.answer(answer, 2)

        assert (await host.turn()).ok
        assert outcome in json.dumps(told(model, host.events[0].session, tool.call)["content"])


async def test_a_form_that_claude_withdraws_is_withdrawn(with_forms):
    async with with_forms.running(script([BOOK], DONE)) as (session, host):
        await host.question(1)
        host.answer(Answer(allow=True), 1)
        form = await host.question(2)

        await session.interrupt()

        await host.until(lambda: form in host.withdrawn)
        assert (await host.turn()).interrupted


async def test_an_answer_that_breaks_the_form_is_the_servers_to_refuse(with_forms, model):
    async with with_forms.running(script([BOOK], DONE)) as (_, host):
        tool = await host.question(1)
        host.answer(Answer(allow=True), 1)
        await host.question(2)

        host.answer(Answer(allow=True, input={"seats": "many"}), 2)

        assert (await host.turn()).ok
        heard = told(model, host.events[0].session, tool.call)
        assert heard["is_error"] is True
        assert "does not match the requested schema" in json.dumps(heard["content"])
