"""A real daemon at a real switchboard whose store has forgotten something: what the machine knows puts it right."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers.checkouts import checkout
from helpers.daemons import DaemonProcess, daemon_process
from helpers.eventually import eventually
from helpers.fleet import ANA, KIM, Core, core
from helpers.scripted import ScriptedModel, clean_environment, script, scripted_model

from switchboard.domain.errors import Unavailable
from switchboard.domain.run import RunState
from switchboard.domain.stop import Receipt, Selector, Standing
from switchboard.store.redis import RedisStore

SLOW = 60


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


@contextlib.asynccontextmanager
async def joined(sb: Core, root: Path, model: ScriptedModel) -> AsyncIterator[DaemonProcess]:
    """A daemon process on a machine of its own, with a checkout, attached to *sb*."""
    checkout(root / "repo")
    token, _ = await sb.identity.invite(ANA, "mill")
    environment = clean_environment(model.claude_env(root / "claude"))
    async with daemon_process(root / "mill", environment) as daemon:
        try:
            joins = f"127.0.0.1:{sb.ports.enroll} {token} 127.0.0.1:{sb.ports.fleet}"
            await daemon.start(SWITCHBOARD_JOIN=joins)
            await attached(sb)
            yield daemon
        finally:
            print(daemon.log()[-6_000:])  # shown when the test fails


async def attached(sb: Core, there: bool = True) -> None:
    await eventually(lambda: [m.attached for m in sb.presence.machines()] == [there], SLOW)


def cut(sb: Core) -> None:
    """Break the link, as a network does."""
    for line in sb.fleet.lines:
        line.close(Unavailable("the link is cut"))


async def started(sb: Core, root: Path, *turns: list[dict[str, Any]]) -> str:
    """Start a run, and wait until its turns are over."""
    path = str(root / "repo")
    run, _ = await sb.runs.start(ANA, machine="mill", path=path, agent="claude", prompt=script(*turns))
    await state(sb, run.id, RunState.IDLE)
    return run.id


async def state(sb: Core, run: str, wanted: RunState) -> None:
    await eventually(lambda: sb.projection.run(run).state is wanted, SLOW)


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


def proof(sb: Core, order: str, run: str) -> Receipt | None:
    """The receipt of a run under an order, once it is shown as ended and its work as kept."""
    row = next((row for row in sb.stops.status(order).rows if row.run == run), None)
    whole = row is not None and row.standing is Standing.ENDED and row.receipt is not None and row.receipt.safety
    return row.receipt if row is not None and whole else None
