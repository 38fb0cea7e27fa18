"""Both ends compute one digest, whatever an agent asks: each with its own code, and only the wire's text between them."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.approval import NotCanonical
from daemon.domain.approval import canonical as canonical_there
from daemon.domain.approval import digest as digest_there
from switchboard.domain.digest import canonical, digest
from switchboard.domain.errors import Invalid

# Any character there is, halves of one among them, and text that only looks like their escapes.
ODD = st.sampled_from(
    ["\ud800", "\udfff", "\ud83d\ude00", "\\ud800", "\\", '"', "\x00", "\u2028", "\u202e", "😀", "é", "ä"]
)
TEXT = st.lists(st.one_of(ODD, st.text(st.characters()))).map("".join)
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT)
INPUT = st.dictionaries(
    TEXT, st.recursive(LEAF, lambda inner: st.one_of(st.lists(inner), st.dictionaries(TEXT, inner)), max_leaves=8)
)


def as_it_comes(value: Any) -> Any:
    """Return *value* as JSON brings it: an agent's line and a person's request are both text before they are this."""
    return json.loads(json.dumps(value))


@given(INPUT, st.integers(1, 9))
def test_what_is_asked_has_one_digest_at_both_ends(input: dict[str, Any], attempt: int) -> None:
    asked = as_it_comes(input)
    there = digest_there("r-1", attempt, "tool", "Bash", asked, "/src")
    shown = canonical_there(asked).encode().decode()  # as a message's field, which holds UTF-8

    assert there == digest(run="r-1", attempt=attempt, kind="tool", tool="Bash", input=json.loads(shown), cwd="/src")


@given(INPUT)
def test_an_edited_input_has_one_digest_at_both_ends(input: dict[str, Any]) -> None:
    edited = as_it_comes(input)
    here = digest(run="r-1", attempt=1, kind="tool", tool="Bash", input=edited, cwd="/src")
    sent = canonical(edited).encode().decode()

    assert here == digest_there("r-1", 1, "tool", "Bash", json.loads(sent), "/src")
    assert canonical_there(json.loads(sent)) == sent


@given(INPUT, INPUT)
def test_two_inputs_never_share_a_text(one: dict[str, Any], other: dict[str, Any]) -> None:
    one, other = as_it_comes(one), as_it_comes(other)

    assert (canonical(one) == canonical(other)) == (
        json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {1, 2}, b"x", ...], ids=repr)
def test_what_json_cannot_hold_is_refused_at_both_ends(value: Any) -> None:
    with pytest.raises(Invalid):
        canonical({"x": value})
    with pytest.raises(NotCanonical):
        canonical_there({"x": value})
