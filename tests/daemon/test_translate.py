"""Strangers' values on the wire: cut and mended so that no message is too large or refused, and what was cut is said."""

import json
from dataclasses import replace

from helpers.clocks import StillClock
from hypothesis import given
from hypothesis import strategies as st
from switchboard_rpc.v1 import approval_pb2, fleet_pb2, stop_pb2

from daemon.domain.agent import OutputKind
from daemon.domain.facts import (
    ApprovalRecord,
    InstructionRecord,
    InstructionState,
    OrderRecord,
    ReceiptRecord,
    RunRecord,
    Saved,
)
from daemon.domain.instruction import Alarm, Decision, DecisionRefused, Held, OrdersSeen, Unreadable
from daemon.domain.orders import LISTS
from daemon.domain.outbox import Event
from daemon.domain.run import RunState
from daemon.translate import down, output, up

CLOCK = StillClock()
anything = st.text(st.characters(), max_size=40)


def asked(shown: object, **more: object) -> approval_pb2.Approval:
    record = ApprovalRecord("a1", "r1", 1, "tool", "Bash", "{}", json.dumps(shown), "sha256:0", **more)  # type: ignore[arg-type]
    return up.approval(record, CLOCK)


def test_an_input_that_is_too_large_is_cut_where_it_is_long_and_says_so() -> None:
    found = asked({"command": "make", "content": "x" * 3_000_000, "many": ["y" * 1_000] * 2_000})

    shown = json.loads(found.input_json)
    assert shown["command"] == "make"
    assert shown["content"].endswith("(cut: 3,000,000 characters in all)")
    assert found.masked
    assert found.ByteSize() < 600_000


def test_an_input_that_fits_is_shown_as_it_is() -> None:
    found = asked({"command": "echo ä"})

    assert json.loads(found.input_json) == {"command": "echo ä"}
    assert not found.masked


def test_even_an_input_of_a_million_keys_becomes_a_card() -> None:
    found = asked({f"key {n}": "x" for n in range(200_000)})

    assert found.ByteSize() < 600_000
    assert found.masked


def test_a_kind_that_the_wire_has_no_word_for_is_unknown() -> None:
    record = ApprovalRecord("a1", "r1", 1, "riddle", "x", "{}", "{}", "sha256:0")

    assert up.approval(record, CLOCK).kind == approval_pb2.QUESTION_KIND_UNKNOWN


@given(anything, anything)
def test_no_text_is_refused_by_the_wire(text: str, other: str) -> None:
    run = RunRecord(
        "r1", reason=text, path=other, prompt=text, not_gated=(text,), scope=(other,), state=RunState.FAILED
    )
    up.run(run, CLOCK).SerializeToString()
    asked({"x": text, "y": [other]}, title=text, why=other, diff=text, cwd=other).SerializeToString()
    up.receipt(ReceiptRecord("o1", "r1", 1, "ended", safety=Saved(not_saved=(text,) * 300))).SerializeToString()
    for fact in (
        Alarm("disk", text),
        DecisionRefused("a1", "i1", text, "approve", other),
        InstructionRecord("i1", "start", "{}", InstructionState.FAILED, text),
        OrdersSeen("e1", 1, {"o1": ("r1",)}),
    ):
        for message in up.reports(fact, CLOCK):
            message.SerializeToString()
    row = output.event(Event(1, 1, OutputKind.MESSAGE, text, other, text, json.dumps({"x": other}), 1))
    assert output.shown(row)["seq"] == 1


@given(
    st.lists(
        st.builds(
            OrderRecord,
            st.sampled_from(["o1", "o2"]),
            st.integers(0, 2**40),
            st.fixed_dictionaries({"all": st.booleans(), **{name: st.lists(st.sampled_from("ab")) for name in LISTS}}),
            st.just("why"),
            st.just("ana"),
            st.integers(0, 2**40),
            st.booleans(),
            st.booleans(),
            st.just("ben"),
            st.just("over"),
        ),
        max_size=3,
    )
)
def test_orders_come_back_from_the_wire_as_they_went(orders: list[OrderRecord]) -> None:
    held = Held("e1", 7, tuple(orders))
    again = down.orders_of(stop_pb2.OrderSet.FromString(up.orders_held(held).SerializeToString()))

    # What narrows nothing is not carried.
    said = [replace(order, selector={name: it for name, it in order.selector.items() if it}) for order in orders]
    said.sort(key=lambda order: (order.lifted, -order.generation if order.lifted else order.generation))
    assert again == replace(held, orders=tuple(said))


def test_a_decision_without_a_verdict_is_no_decision() -> None:
    for verdict in (approval_pb2.VERDICT_UNSPECIFIED, 77):
        decision = approval_pb2.Decision(approval_id="a1", verdict=verdict)  # type: ignore[arg-type]
        assert down.instruction(fleet_pb2.Instruction(id="i1", decision=decision)).body == Unreadable()
    denied = approval_pb2.Decision(approval_id="a1", verdict=approval_pb2.VERDICT_DENY)
    found = down.instruction(fleet_pb2.Instruction(id="i1", decision=denied)).body
    assert isinstance(found, Decision)
    assert not found.approve


def test_a_machine_that_was_restarted_tells_an_age_all_the_same() -> None:
    run = RunRecord("r1", started_boot_ms=CLOCK.boot + 5_000, started_wall_ms=CLOCK.wall - 7_000, boot_id="b0")

    assert up.run(run, CLOCK).age_ms == 7_000
