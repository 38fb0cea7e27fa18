"""Whatever a stranger wrote, a terminal only ever receives what can be seen."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard.cli.text import age, as_json, block, moment, payload, plain, size

HOSTILE = [
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1b]52;c;cm0gLXJmIC8K\x07",  # writes the clipboard
    "\x9b31m",  # C1: an escape in one byte
    "safe\r\x1b[Krm -rf /",
    "rm -rf /\u202e txt.exe",  # turns the reading direction
    "pass\u200bword",
    "\U000e0001\U000e0020",  # tag characters: text that nobody sees
    "a\u2028b\x85c\x0bd\x0ce",
    "\ud800",
    "\x00",
    "\u3164invisible",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_a_hostile_string_reaches_the_terminal_as_a_command(text: str) -> None:
    shown = plain(text)

    assert all(unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in shown)
    assert "\\" in shown


@given(st.text())
def test_every_text_becomes_one_visible_line(text: str) -> None:
    shown = plain(text)

    assert shown.isprintable()
    shown.encode()


@given(st.text())
def test_a_block_keeps_lines_and_nothing_else(text: str) -> None:
    for line in block(text, "  ").split("\n"):
        assert line.startswith("  ")
        assert line.isprintable()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.dictionaries(st.text(), v)))
def test_json_is_exact_and_ascii(value: object) -> None:
    shown = as_json(value)

    assert shown.isascii()
    assert json.loads(shown) == value


def test_ordinary_words_stay_as_they_are() -> None:
    assert plain("Grüße, 世界 – naïve ✓ 🙂") == "Grüße, 世界 – naïve ✓ 🙂"


def test_two_commands_that_differ_never_look_alike() -> None:
    assert plain("rm a") != plain("rm\u00a0a")
    assert plain("rm a") != plain("r\u200dm a")


def test_an_input_is_shown_whole() -> None:
    command = "x" * 100_000

    shown = payload({"command": command, "nested": {"a": [1, None]}, "script": "one\ntwo\x1b"}, "  ")

    assert command in shown
    assert "script:\n    one\n    two\\x1b" in shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3720, "1 h 2 min"), (90000, "1 d 1 h"), (None, "")],
)
def test_ages_are_said_as_people_do(seconds: object, words: str) -> None:
    assert age(seconds) == words


def test_instants_are_said_as_people_do() -> None:
    assert moment("2026-11-23T15:33:17.992439Z") == "2026-11-23 15:33:17 UTC"
    assert moment("2026-11-23T15:33:17+02:00") == "2026-11-23 13:33:17 UTC"
    assert moment(0) == "1970-01-01 00:00:00 UTC"
    assert moment("soon\x1b") == "soon\\x1b"
    assert moment(10**30) == str(10**30)


def test_sizes_are_said_as_people_do() -> None:
    assert [size(512), size(2048), size(5 << 20), size(3 << 30)] == ["512 bytes", "2.0 KiB", "5.0 MiB", "3.0 GiB"]
