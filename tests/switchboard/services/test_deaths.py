"""A server that dies between what it saved and its word in the audit: the audit has it once all the same."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.crash import run_until
from helpers.eventually import eventually
from helpers.fleet import ANA, KIM, approval, core

from switchboard.domain.stop import Selector

SOME = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers.eventually import eventually
from helpers.fleet import ANA, KIM, core
from switchboard.domain.stop import Selector

async def main():
    async with core(sys.argv[2], Path(sys.argv[3]), deadlines=False) as sb:
"""
VOTE = "        await sb.approvals.vote(KIM, 'a-1', verdict='approve', digest=sb.approvals.get('a-1').digest, vote_id='v-1')"
START = "        await sb.runs.start(ANA, machine='mill', path='/src', agent='claude', prompt='mend it', request_id='click')"
ORDER = "        await sb.stops.issue(KIM, Selector(all=True), 'x', request_id='click')"


async def dies(fault: str, line: str, store_url: str, data: Path) -> None:
    """Have another replica, with its disk in *data*, do *line* and die at *fault*."""
    lines = f"{SOME}{line}\nasyncio.run(main())\n"
    await asyncio.to_thread(run_until, fault, lines, str(Path(__file__).parents[2]), store_url, str(data))


@pytest.fixture
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sbf-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("fault", ["service.vote.saved", "service.instruction.saved"])
async def test_a_vote_that_is_cast_again(store_url: str, data: Path, fault: str) -> None:
    async with core(store_url, data, deadlines=False) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.run("r-1", "WAITING")
            await stream.told(approval=approval("a-1", "r-1"))
            digest = sb.approvals.get("a-1").digest
            await dies(fault, VOTE, store_url, data)
            for _ in range(2):
                await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=digest, vote_id="v-1")

            entries = await sb.audited("approval.voted")
            assert [(e.by, e.via, e.subject, e.details["vote"]) for e in entries] == [("kim", "session", "a-1", "v-1")]
            await eventually(lambda: [i.id for i in stream.instructions] == ["v-1"])
            assert await sb.store.audit.verify() is None


async def test_a_vote_that_nobody_casts_again(store_url: str, data: Path) -> None:
    async with core(store_url, data, reread=0.5) as sb:  # its death took the wake-up with it
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.run("r-1", "WAITING")
            await stream.told(approval=approval("a-1", "r-1"))
            await dies("service.vote.saved", VOTE, store_url, data)
            await eventually(lambda: [i.id for i in stream.instructions] == ["v-1"])
            await sb.approvals.note_votes()
            await sb.approvals.note_votes()

            assert [(e.by, e.via, e.subject) for e in await sb.audited("approval.voted")] == [("kim", "session", "a-1")]


@pytest.mark.parametrize("fault", ["service.run.saved", "service.instruction.saved"])
async def test_a_start_that_is_asked_for_again(store_url: str, data: Path, fault: str) -> None:
    async with core(store_url, data, deadlines=False) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await dies(fault, START, store_url, data)
            for _ in range(2):
                run, _ = await sb.runs.start(
                    ANA, machine="mill", path="/src", agent="claude", prompt="mend it", request_id="click"
                )

            assert [(e.by, e.subject) for e in await sb.audited("run.started")] == [("ana", run.id)]
            await eventually(lambda: len(stream.instructions) == 1)


@pytest.mark.parametrize("fault", ["service.order.journaled", "service.order.saved"])
async def test_an_order_that_is_given_again(store_url: str, data: Path, fault: str) -> None:
    async with core(store_url, data, deadlines=False) as sb:
        await dies(fault, ORDER, store_url, data)
        for _ in range(2):
            order = await sb.stops.issue(KIM, Selector(all=True), "x", request_id="click")

        [entry] = await sb.audited("order.issued")
        assert (entry.by, entry.subject, entry.details["selector"]) == ("kim", order.id, {"all": True})
