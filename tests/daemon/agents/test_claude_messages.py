"""What must hold of the translation, whatever claude says and however it is cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.agents.claude_messages import TAIL_LIMIT, Translator
from daemon.agents.claude_modes import NOT_GATED
from daemon.agents.claude_process import parse
from daemon.domain.agent import Output, OutputKind, Ready, TurnEnded, TurnStarted

INIT = {"type": "system", "subtype": "init", "session_id": "s1", "claude_code_version": "2.1.0", "model": "m"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TYPES = ["system", "stream_event", "assistant", "user", "result", "rate_limit_event", "conversation_reset", "too_long"]


def stream(event, parent=None):
    return {"type": "stream_event", "event": event, "parent_tool_use_id": parent}


def spoken(pieces, index=0, kind="text"):
    yield stream({"type": "content_block_start", "index": index, "content_block": {"type": kind}})
    for piece in pieces:
        delta = {"type": f"{kind}_delta", kind: piece}
        yield stream({"type": "content_block_delta", "index": index, "delta": delta})


def stop(index=0):
    return stream({"type": "content_block_stop", "index": index})


def whole(text, kind="text", message="m1"):
    return {"type": "assistant", "uuid": "u1", "message": {"id": message, "content": [{"type": kind, kind: text}]}}


def outputs(frames):
    translator = Translator()
    begin = stream({"type": "message_start", "message": {"id": "m1"}})
    events = [event for frame in [begin, *frames] for event in translator.take(frame)]
    return [event for event in events if isinstance(event, Output)]


@given(st.lists(st.text(alphabet="ab\n", max_size=6)), st.booleans(), st.sampled_from(["text", "thinking"]))
def test_words_come_once_in_whole_lines_whichever_way_they_are_cut(pieces, stop_first, kind):
    text = "".join(pieces)
    ending = [stop(), whole(text, kind)] if stop_first else [whole(text, kind), stop()]

    said = outputs([*spoken(pieces, kind=kind), *ending])

    assert "".join(output.text for output in said) == text
    assert all(output.text.endswith("\n") for output in said[:-1])
    assert len({output.block for output in said}) <= 1


@given(st.text(alphabet="ab\n"), st.integers(min_value=0, max_value=30))
def test_what_the_stream_lost_is_made_up_from_the_whole_block(text, heard):
    said = outputs([*spoken([text[:heard]]), whole(text)])

    assert "".join(output.text for output in said) == text


def test_a_block_that_was_never_streamed_is_passed_on():
    assert [output.text for output in outputs([whole("all at once", message="m2")])] == ["all at once"]


def test_two_blocks_with_the_same_words_are_two():
    frames = [*spoken(["yes"]), whole("yes"), stop(), *spoken(["yes"], index=1), whole("yes"), stop(1)]

    assert [(output.text, output.block) for output in outputs(frames)] == [("yes", "m1:0"), ("yes", "m1:1")]


def test_a_line_without_an_end_is_not_held_for_ever():
    said = outputs([*spoken(["x" * 1000] * 100)])

    assert len("".join(output.text for output in said)) > TAIL_LIMIT


@given(st.dictionaries(st.text(), JSON), st.sampled_from(TYPES) | st.text())
def test_no_frame_however_odd_breaks_the_translation(frame, kind):
    events = Translator().take({**frame, "type": kind})

    assert isinstance(events, list)


@given(
    st.sampled_from(["content_block_start", "content_block_delta", "message_start"]), st.dictionaries(st.text(), JSON)
)
def test_no_event_of_the_stream_however_odd_breaks_it(kind, event):
    Translator().take(stream({**event, "type": kind}))


def test_what_is_not_known_is_shown_whole():
    frame = {"type": "telepathy", "thought": {"deep": [1, 2]}}
    system = {"type": "system", "subtype": "dream", "of": "sheep"}

    assert Translator().take(frame) == [Output(OutputKind.UNKNOWN, detail=frame)]
    assert Translator().take(system) == [Output(OutputKind.UNKNOWN, detail=system)]


def test_a_frame_of_a_broken_shape_is_shown_whole():
    frame = {"type": "assistant", "message": None}

    assert Translator().take(frame)[-1] == Output(OutputKind.UNKNOWN, detail=frame)


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        ({"subtype": "compact_boundary"}, "the conversation was compacted"),
        ({"subtype": "api_retry", "error": "overloaded"}, "the model could not be reached: overloaded"),
        ({"subtype": "informational", "content": "mind the gap"}, "mind the gap"),
        ({"subtype": "permission_denied", "tool_name": "Bash", "decision_reason": "rule"}, "Bash was refused: rule"),
        ({"subtype": "task_started", "description": "a server"}, "started in the background: a server"),
    ],
)
def test_what_a_person_would_want_to_know_is_a_sentence(frame, text):
    (notice,) = Translator().take({"type": "system", **frame})

    assert (notice.kind, notice.text) == (OutputKind.NOTICE, text)


def test_a_session_is_ready_once_and_again_when_something_changed():
    translator = Translator()

    assert translator.take(INIT) == [Ready("s1", "2.1.0", "", "m", NOT_GATED), TurnStarted()]
    assert translator.take(INIT) == []
    status = {"type": "system", "subtype": "status", "status": None, "permissionMode": "plan"}
    assert translator.take(status) == [Ready("s1", "2.1.0", "plan", "m", NOT_GATED)]


def test_a_turn_starts_once_and_ends_with_its_result():
    translator = Translator()
    running = {"type": "system", "subtype": "session_state_changed", "state": "running"}
    result = {"type": "result", "subtype": "success", "is_error": False, "num_turns": 1, "total_cost_usd": 0.5}

    started = [translator.take(frame) for frame in (running, INIT, running, whole("hi"))]
    ended = translator.take(result)

    assert [type(event) for events in started for event in events] == [Ready, TurnStarted, Output]
    assert ended[0].detail == {"duration_ms": None, "num_turns": 1, "cost_usd": 0.5, "usage": None}
    assert ended[1] == TurnEnded(True)
    assert translator.take(running) == [TurnStarted()]


@pytest.mark.parametrize(
    ("result", "ended"),
    [
        ({"errors": ["no conversation"], "result": ""}, TurnEnded(False, "no conversation")),
        ({"result": "API Error: 529\n overloaded"}, TurnEnded(False, "API Error: 529 overloaded")),
        ({"subtype": "error_max_turns"}, TurnEnded(False, "claude ended the turn with error max turns")),
        ({"terminal_reason": "aborted_tools", "errors": ["[ede]"]}, TurnEnded(False, "the turn was interrupted", True)),
        (
            {"result": "Not logged in · Please run /login"},
            TurnEnded(False, "claude is not signed in on this machine: Not logged in · Please run /login"),
        ),
    ],
)
def test_a_failed_turn_says_why(result, ended):
    assert Translator().take({"type": "result", "is_error": True, **result})[-1] == ended


def test_a_subagents_words_are_marked_and_start_no_turn():
    frame = {**whole("found it"), "parent_tool_use_id": "call-1"}

    assert Translator().take(frame) == [
        Output(OutputKind.MESSAGE, "found it", block="u1:0", detail={"parent": "call-1"})
    ]


@given(st.binary(max_size=200))
def test_any_line_is_a_frame_or_nothing(line):
    frame = parse(line.replace(b"\n", b""))

    assert frame is None or isinstance(frame["type"], str)


@pytest.mark.parametrize(
    ("line", "frame"),
    [
        (b'{"type": "x", "n": NaN}', {"type": "x", "n": "NaN"}),
        (rb'{"type": "x", "t": "half \ud83d"}', {"type": "x", "t": "half ?"}),
        (rb'{"type": "x", "t": "\ud83d\ude00"}', {"type": "x", "t": "\N{GRINNING FACE}"}),
        (b'{"type": 5}', {"type": "not_a_frame", "frame": {"type": 5}}),
        (b"[1]", {"type": "not_a_frame", "frame": [1]}),
        (b"Debugger attached.", {"type": "not_json", "text": "Debugger attached."}),
        (b'{"a":' * 5000, {"type": "not_json", "text": '{"a":' * 400}),
        (b"  \r", None),
    ],
)
def test_odd_lines(line, frame):
    assert parse(line) == frame
    assert json.dumps(frame, allow_nan=False)
