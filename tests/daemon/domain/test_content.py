"""What may leave the machine under each rule."""

import json

import pytest

from daemon.domain.agent import Output, OutputKind
from daemon.domain.content import limit, limit_input, limit_question, limit_words

SECRET = "the-content-of-a-file"
CALL = Output(
    OutputKind.TOOL_CALL,
    tool="Write",
    block="b1",
    detail={"file_path": "/src/a.py", "content": SECRET, "n": {"deep": SECRET}},
)
RESULT = Output(OutputKind.TOOL_RESULT, SECRET, "Bash", "b1", {"exit_code": 2, "is_error": True, "stdout": SECRET})


@pytest.mark.parametrize("kind", list(OutputKind))
def test_full_is_everything(kind):
    output = Output(kind, "words", "Bash", "b1", {"a": [1]})

    assert limit(output, "full") is output


@pytest.mark.parametrize("output", [CALL, RESULT, Output(OutputKind.UNKNOWN, SECRET, detail={"frame": SECRET})])
@pytest.mark.parametrize("content", ["redacted", "metadata", "a rule of a younger server"])
def test_contents_stay_on_the_machine_under_any_other_rule(output, content):
    shown = limit(output, content)

    assert SECRET not in shown.text + json.dumps(dict(shown.detail))
    assert (shown.kind, shown.tool, shown.block) == (output.kind, output.tool, output.block)


def test_redacted_shows_words_paths_commands_and_exit_codes():
    assert limit(Output(OutputKind.MESSAGE, "I will fix it"), "redacted").text == "I will fix it"
    assert limit(CALL, "redacted").detail["file_path"] == "/src/a.py"
    assert limit(RESULT, "redacted").detail["exit_code"] == 2
    assert limit(RESULT, "redacted").text == "«21 bytes stay on the machine»"


def test_metadata_shows_sizes_and_numbers_only():
    assert limit(Output(OutputKind.MESSAGE, "I will fix it"), "metadata").text == "«13 bytes stay on the machine»"
    assert limit(CALL, "metadata").detail == {}
    assert limit(RESULT, "metadata").detail == {"exit_code": 2, "is_error": True}
    end = Output(OutputKind.TURN_END, detail={"duration_ms": 5, "usage": {"tokens": 7, "model": "m"}})
    assert limit(end, "metadata").detail == {"duration_ms": 5, "usage": {"tokens": 7}}


def test_a_gap_is_counted_under_every_rule():
    gap = Output(OutputKind.GAP, "7 events were dropped", detail={"events": 7})

    assert limit(gap, "metadata").text == "7 events were dropped"


def test_an_input_says_whether_some_of_it_stayed():
    assert limit_input({"command": "ls"}, "redacted") == ({"command": "ls"}, False)
    shown, masked = limit_input({"command": "ls", "stdin": SECRET}, "redacted")
    assert masked
    assert shown == {"command": "ls", "stdin": "«21 bytes stay on the machine»"}
    assert limit_input({"command": "ls"}, "metadata")[1]
    assert limit_input({"command": {"nested": SECRET}}, "redacted")[1]


def test_a_question_is_limited_as_a_whole():
    full = limit_question("Edit a.py", "to fix it", "-a\n+b", {"file_path": "a.py"}, "full")
    redacted = limit_question("Edit a.py", "to fix it", "-a\n+b", {"file_path": "a.py"}, "redacted")
    metadata = limit_question("Edit a.py", "to fix it", "-a\n+b", {"file_path": "a.py"}, "metadata")

    assert (full.diff, full.masked) == ("-a\n+b", False)
    assert (redacted.title, redacted.why, redacted.masked) == ("Edit a.py", "to fix it", True)
    assert "+b" not in redacted.diff
    assert "a.py" not in f"{metadata}"


def test_words_leave_unless_only_metadata_may():
    assert limit_words("fix it", "redacted") == "fix it"
    assert "fix" not in limit_words("fix it", "metadata")
