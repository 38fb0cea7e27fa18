"""Staying attached: every way in which a link ends, and that nothing that was reported is lost with it."""

import asyncio
import secrets
from pathlib import Path

import grpc
import pytest
from helpers.eventually import eventually
from helpers.switch import serving
from helpers.wire import Wire, wired
from switchboard_rpc.v1 import fleet_pb2, stop_pb2

from daemon.domain.facts import ApprovalRecord, OrderRecord, ReceiptRecord, RunRecord
from daemon.domain.instruction import Held, Message, Unreadable
from daemon.domain.run import RunState
from daemon.link import control as links
from daemon.link.channels import Patience


async def attached(wire: Wire, times: int = 1) -> None:
    await eventually(lambda: len(wire.switch.streams) >= times and wire.control.attached.is_set(), 20)


async def test_a_hello_says_everything_and_the_welcome_is_taken_before_anything_else(wire: Wire) -> None:
    wire.switch.orders.orders.append(
        stop_pb2.StopOrder(id="o1", by="ana", hold=True, selector=stop_pb2.Selector(all=True, except_repos=["x"]))
    )
    wire.control.again()
    await attached(wire, 2)

    hello = wire.switch.streams[0].hello
    assert (hello.name, hello.boot_epoch, list(hello.capabilities)) == ("mill", "b1", ["all-live-runs"])
    assert [(a.name, a.version, a.signed_in) for a in hello.agents] == [("claude", "2.1.330", True)]
    assert [(s.run_id, s.low, s.next) for s in hello.spool] == [("r1", 1, 5)]
    (order,) = wire.hands.welcomes[-1].orders
    assert (order.id, order.selector["all"], order.selector["except_repos"]) == ("o1", True, ["x"])


async def test_what_is_reported_is_kept_until_it_is_acknowledged_and_said_again(wire: Wire) -> None:
    await attached(wire)
    wire.switch.acks = False
    first = wire.report(RunRecord("r1", revision=1))
    await eventually(lambda: wire.switch.run("r1"))
    assert wire.hands.acks == []
    assert wire.control.owed

    wire.switch.acks = True
    wire.control.again()

    await eventually(lambda: wire.hands.acks == [first])
    assert [run.id for run in wire.switch.streams[-1].hello.runs] == ["r1"]
    assert not wire.control.owed


async def test_what_happens_between_hello_and_welcome_is_not_missed(wire: Wire) -> None:
    await attached(wire)
    said = []

    async def meanwhile(_: object) -> None:
        if not said:
            said.append(wire.report(RunRecord("r7", revision=3)))

    wire.switch.on_hello = meanwhile
    wire.control.again()

    await eventually(lambda: said and wire.hands.acks == said)


async def test_a_decided_question_is_acknowledged_with_its_receipt_and_not_before(wire: Wire) -> None:
    await attached(wire)
    record = ApprovalRecord("a1", "r1", 1, "tool", "Bash", "{}", "{}", "sha256:0", decision_id="i1")
    wire.hands.facts.append(record)
    wire.control.report(record)

    await eventually(lambda: wire.hands.acks == [record])
    assert [kind for kind, _ in wire.switch.facts] == ["approval", "decision_receipt"]


async def test_what_a_hello_cannot_hold_follows_the_welcome(wire: Wire) -> None:
    await attached(wire)
    runs = [RunRecord(f"r{n}", revision=1, prompt="x" * 16_000) for n in range(100)]
    receipts = [ReceiptRecord("o1", f"r{n}", 1, "ended") for n in range(5)]
    wire.hands.facts += [*runs, *receipts]
    wire.control.again()

    await eventually(lambda: wire.hands.facts == [], 20)
    hello = wire.switch.streams[-1].hello
    assert 0 < len(hello.runs) < 100
    assert list(hello.capabilities) == [], "live runs that it does not name are no reason to close them"
    assert hello.ByteSize() < 1 << 20
    assert {m.id for kind, m in wire.switch.facts if kind == "run"} == {f"r{n}" for n in range(100)}
    assert len(wire.hands.acks) == 105


async def test_orders_and_instructions_come_down(wire: Wire) -> None:
    await attached(wire)
    await wire.switch.order(repos=["a"], reason="x\n<b>")
    await wire.switch.instruct("i1", message=fleet_pb2.Message(run_id="r1", text="hello"))
    await wire.switch.instruct("i2")

    await eventually(lambda: len(wire.hands.instructions) == 2 and wire.hands.orders)
    (order,) = wire.hands.orders[0].orders
    assert order == OrderRecord(order.id, 1, {**order.selector, "repos": ["a"]}, reason="x\n<b>", by="ana", hold=True)
    assert [i.body for i in wire.hands.instructions] == [Message("r1", "hello"), Unreadable()]


async def test_a_machine_with_ten_thousand_orders_attaches_and_brings_back_what_stands(wire: Wire) -> None:
    await attached(wire)
    for n in range(10_000):
        order = wire.switch.orders.orders.add(id=f"o{n}", generation=n + 1, by="ana", reason="x" * 2_000)
        order.lifted = n % 100 != 0
    wire.switch.orders.generation = 10_000
    wire.hands.facts = [RunRecord("r1", revision=1)]
    wire.control.again()
    await attached(wire, 2)
    assert len(wire.hands.on_disk.orders) == 10_000
    wire.control.again()
    await attached(wire, 3)

    hello = wire.switch.streams[-1].hello
    assert hello.ByteSize() < 5 << 20
    brought = {order.id: order.lifted for order in hello.orders_held.orders}
    assert [id for id, lifted in brought.items() if not lifted] == [f"o{n}" for n in range(0, 10_000, 100)]
    assert "o9999" in brought
    assert "o1" not in brought
    assert list(hello.capabilities) == ["all-live-runs"]


async def test_a_lift_goes_back_up_as_it_came_down(wire: Wire) -> None:
    await attached(wire)
    order = await wire.switch.order(all=True)
    wire.switch.orders.orders[0].lift_reason = "over"
    wire.switch.orders.orders[0].lift_seal = "of the switchboard"
    await wire.switch.lift(order)
    await eventually(lambda: wire.hands.on_disk.orders and wire.hands.on_disk.orders[0].lifted)
    wire.control.again()

    await attached(wire, 2)
    assert list(wire.switch.streams[-1].hello.orders_held.orders) == list(wire.switch.orders.orders)


async def test_heartbeats_carry_pulses_and_the_generation_on_the_disk(wire: Wire) -> None:
    wire.hands.on_disk = Held("e0", 0)
    await attached(wire)
    await wire.switch.order(all=True)

    def beat() -> fleet_pb2.Heartbeat | None:
        beats = [r.heartbeat for r in wire.switch.stream.reports if r.WhichOneof("kind") == "heartbeat"]
        return beats[-1] if beats and beats[-1].generation == 1 else None

    found = await eventually(beat)
    assert [(p.run_id, p.silent_ms) for p in found.pulses] == [("r1", 7)]
    assert found.store_epoch == "e1"


async def test_a_switchboard_that_falls_silent_is_dialled_again(wire: Wire) -> None:
    wire.switch.heartbeat_ms = 100
    wire.control.again()
    await attached(wire, 2)
    wire.switch.acks = wire.switch.beats = False

    await attached(wire, 3)
    assert wire.switch.streams[1].gone.is_set()


async def test_a_heartbeat_that_knows_of_more_orders_asks_for_them(wire: Wire) -> None:
    await attached(wire)
    wire.switch.orders.generation = 7  # and the broadcast is lost

    await attached(wire, 2)
    assert wire.hands.welcomes[-1].generation == 7


async def test_a_store_that_came_back_empty_is_told_everything_again(wire: Wire) -> None:
    await attached(wire)
    wire.switch.orders.store_epoch = "e2"

    await attached(wire, 2)
    assert wire.hands.welcomes[-1].store_epoch == "e2"


async def test_orders_that_did_not_get_onto_the_disk_do_not_make_it_dial_again_and_again(wire: Wire) -> None:
    await attached(wire)
    wire.hands.ordered = lambda held: None  # type: ignore[method-assign]  # as with a full disk
    await wire.switch.order(all=True)
    beats = len(wire.switch.stream.reports)

    await eventually(lambda: len(wire.switch.stream.reports) > beats + 4)
    assert len(wire.switch.streams) == 1


async def test_a_fenced_machine_waits_long_before_it_tries_again(wire: Wire) -> None:
    await attached(wire)
    await wire.switch.stream.send(fenced=fleet_pb2.Fenced(reason="this machine was revoked", retry=False))

    await eventually(lambda: wire.control.trouble == "this machine was revoked")
    assert not wire.control.attached.is_set()
    assert len(wire.switch.streams) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
async def test_every_other_status_is_tried_again_soon(wire: Wire, code: grpc.StatusCode) -> None:
    await attached(wire)
    wire.switch.attach_error = (code, "not now")
    wire.control.again()
    await eventually(lambda: wire.control.trouble and "dialling again" not in wire.control.trouble)
    wire.switch.attach_error = None

    await attached(wire, 2)


async def test_a_switchboard_that_was_away_is_found_again(wire: Wire) -> None:
    await attached(wire)
    server = wire.switch.streams[0]
    wire.switch.attach_error = (grpc.StatusCode.UNAVAILABLE, "restarting")
    server.context.cancel() if hasattr(server.context, "cancel") else wire.control.again()
    await eventually(lambda: not wire.control.attached.is_set())
    record = wire.report(RunRecord("r9", revision=1, state=RunState.FAILED))
    wire.switch.attach_error = None

    await eventually(lambda: wire.hands.acks == [record], 20)
    assert wire.switch.run("r9").reason == ""


async def test_one_that_answers_no_hello_is_left_after_its_time(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    await attached(wire)
    monkeypatch.setattr(links, "FIRST_REPLY_S", 0.3)
    never = asyncio.Event()

    async def silent(_: object) -> None:
        await never.wait()

    wire.switch.on_hello = silent
    wire.control.again()
    await eventually(lambda: "does not answer" in wire.control.trouble, 20)
    wire.switch.on_hello = None
    await attached(wire, 3)
    never.set()


async def test_no_stranger_is_taken_for_the_switchboard(wire: Wire, tmp_path_factory: pytest.TempPathFactory) -> None:
    from helpers.switch import Switch

    await attached(wire)
    stranger = Switch(tmp_path_factory.mktemp("other"))
    async with serving(stranger) as ports:
        wire.identity.move(ports.fleet_address, ports.enroll_address)
        wire.control.again()
        await eventually(lambda: wire.control.trouble and "dialling again" not in wire.control.trouble, 20)
        assert not wire.control.attached.is_set()
        assert stranger.streams == []


def test_patience_is_jittered_and_grows_and_is_reset() -> None:
    patience = Patience()
    early = [patience.next_s(at) for at in range(0, 50_000, 1_000)]
    assert max(early) <= 5
    assert len(set(early)) == len(early)
    late = [patience.next_s(at) for at in range(61_000, 200_000, 1_000)]
    assert 5 < max(late) <= 30
    patience.reset()
    assert patience.next_s(300_000) <= 0.4


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "\u202e", "x" * 100_000, "<script>"])
async def test_no_string_of_a_stranger_breaks_the_wire(wire: Wire, text: str) -> None:
    await attached(wire)
    record = wire.report(RunRecord("r1", revision=1, reason=text, path=text, branch=text, prompt=text, repo=text))

    await eventually(lambda: wire.hands.acks == [record])
    assert len(wire.switch.run("r1").prompt) < 20_000


async def test_it_ends_when_told_to_even_as_its_link_breaks(tmp_path: Path) -> None:
    for _ in range(20):
        async with wired(tmp_path / secrets.token_hex(4)) as wire:
            running = asyncio.create_task(wire.control.run())
            await attached(wire)
            wire.control.again()
            await asyncio.sleep(0)
            running.cancel()
            done, _ = await asyncio.wait([running], timeout=10)
            assert done, "it goes on although it was told to end"
