"""A real daemon where something is wrong: a store that has forgotten, a clock that is off. What the machine knows puts it right."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from helpers.eventually import eventually
from helpers.fleet import ANA, KIM, Core, core
from helpers.joined import SLOW, cut, joined, started, state
from helpers.scripted import ScriptedModel, scripted_model

from switchboard.domain.run import RunState
from switchboard.domain.stop import Receipt, Selector, Standing
from switchboard.store.redis import RedisStore


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


async def test_a_run_whose_end_the_store_forgot_is_closed_and_the_live_one_beside_it_is_not(
    store_url: str, tmp_path: Path, model: ScriptedModel
) -> None:
    async with core(store_url) as sb, joined(sb, tmp_path, model):
        ended = await started(sb, tmp_path, [{"text": "one\n"}])
        before = sb.projection.run(ended)
        await sb.runs.end(ANA, ended)
        await state(sb, ended, RunState.SUCCEEDED)
        alive = await started(sb, tmp_path, [{"text": "two\n"}])
        # As after a fail-over that lost what was acknowledged.
        await sb.store.runs.change(ended, lambda _: before)
        await state(sb, ended, RunState.IDLE)

        cut(sb)

        await state(sb, ended, RunState.INTERRUPTED)
        assert "how it ended was lost" in sb.projection.run(ended).reason
        await sb.runs.end(ANA, alive)
        await state(sb, alive, RunState.SUCCEEDED)


async def test_a_store_that_came_back_empty_has_its_runs_and_the_proof_of_its_stops_again(
    store_url: str, store: RedisStore, tmp_path: Path, model: ScriptedModel
) -> None:
    async with core(store_url, heartbeat=timedelta(milliseconds=500)) as sb, joined(sb, tmp_path, model):
        stopped = await started(sb, tmp_path, [{"text": "one\n"}])
        order = await sb.stops.issue(KIM, Selector(all=True), "incident 7")
        before = await eventually(lambda: proof(sb, order.id, stopped), SLOW)
        assert before.proof
        epoch = sb.stops.order_set()[0]

        await store.client.call("FLUSHALL", again=True)
        await store.client.load_functions()
        await eventually(lambda: sb.stops.order_set()[0] != epoch, SLOW)

        async def kept() -> list[Receipt]:
            return [replace(receipt, at=before.at) for receipt in await store.receipts.all()]

        async def whole() -> bool:
            return await kept() == [before]

        await eventually(whole, SLOW)
        await eventually(lambda: proof(sb, order.id, stopped), SLOW)
        await state(sb, stopped, RunState.STOPPED)


@pytest.mark.parametrize("days", [1, -1])
async def test_a_machine_whose_clock_is_off_by_a_day_is_like_any_other(
    store_url: str, tmp_path: Path, model: ScriptedModel, days: int
) -> None:
    (tmp_path / "clock").mkdir()
    # What the daemon reads; gRPC's deadlines are given by one clock of Python's and kept by the system's own.
    off = f"import time\nreal = time.time_ns\ntime.time_ns = lambda: real() + {days} * 86_400 * 10**9\n"
    (tmp_path / "clock" / "sitecustomize.py").write_text(off)
    heartbeat = timedelta(milliseconds=500)
    async with (
        core(store_url, heartbeat=heartbeat) as sb,
        joined(sb, tmp_path, model, PYTHONPATH=str(tmp_path / "clock")),
    ):
        run = await started(sb, tmp_path, [{"text": "one\n"}])
        events, _, _ = await sb.output.read(run, 1, 10)
        told = datetime.fromtimestamp(events[0].at_ms / 1000, UTC) - datetime.now(UTC)
        assert abs(told - timedelta(days=days)) < timedelta(hours=1), "its clock is really off"

        def live() -> bool:
            row = sb.runs.row(sb.projection.run(run))
            return row.age < timedelta(minutes=5) and row.proof_age < timedelta(seconds=30)

        await eventually(live, SLOW)
        cut(sb)
        order = await sb.stops.issue(KIM, Selector(all=True), "incident 7")
        await eventually(lambda: proof(sb, order.id, run), SLOW)
        assert sb.stops.order(order.id).issued_at < datetime.now(UTC)


def proof(sb: Core, order: str, run: str) -> Receipt | None:
    """The receipt of a run under an order, once it is shown as ended and its work as kept."""
    row = next((row for row in sb.stops.status(order).rows if row.run == run), None)
    whole = row is not None and row.standing is Standing.ENDED and row.receipt is not None and row.receipt.safety
    return row.receipt if row is not None and whole else None
