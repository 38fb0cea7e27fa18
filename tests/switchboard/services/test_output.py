"""Output as viewers get it: every event once and in order, whoever is slow, late or on another replica."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from helpers.eventually import eventually

from switchboard.domain.errors import Conflict, Forbidden
from switchboard.domain.output import Appended, Event
from switchboard.domain.run import Run
from switchboard.services.book import Book
from switchboard.services.output import BEHIND, Output
from switchboard.services.projection import Projection
from switchboard.store.redis import RedisStore, open_store

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def decode(blob: bytes) -> list[Event]:
    """The tests' own format; the wire's is the wire's affair."""
    try:
        return [Event(seq=seq, at_ms=1, kind="message", text=text) for seq, text in json.loads(blob)]
    except ValueError:
        return [Event(seq=0, at_ms=0, kind="unknown", text="damaged")]


def encode(first: int, count: int) -> bytes:
    return json.dumps([(seq, f"t{seq}") for seq in range(first, first + count)]).encode()


@pytest.fixture
async def here(store: RedisStore) -> AsyncIterator[SimpleNamespace]:
    async with Projection(store.projected, store.changes, store.epochs, reread=3600) as known:
        runs = Book(store.runs, known)
        await runs.change("r", lambda _: Run(id="r", machine="mill", started_at=NOON, changed_at=NOON))
        yield SimpleNamespace(output=Output(store.output, runs, decode), runs=runs, store=store, known=known)


async def send(output: Output, *sizes: int, run: str = "r", next: int = 1) -> int:
    for size in sizes:
        next = (await output.append("mill", run, next, size, encode(next, size))).next
    return next


async def take(output: Output, count: int, after: int = 0) -> list[int]:
    seqs: list[int] = []
    async with aclosing(output.follow("r", after)) as batches:
        async for events in batches:
            seqs += [event.seq for event in events]
            if len(seqs) >= count:
                break
    return seqs


async def test_a_batch_of_the_runs_machine_is_stored_and_read_back(here: SimpleNamespace) -> None:
    assert await here.output.append("mill", "r", 1, 3, encode(1, 3)) == Appended(next=4, taken=True)
    assert await here.output.append("mill", "r", 1, 3, encode(1, 3)) == Appended(next=4, taken=False)

    events, next, low = await here.output.read("r", 2, 10)
    assert [e.text for e in events] == ["t2", "t3"]
    assert (next, low) == (4, 1)


async def test_another_machine_and_an_unannounced_run_are_refused(here: SimpleNamespace) -> None:
    with pytest.raises(Forbidden, match="not a run of this machine"):
        await here.output.append("saw", "r", 1, 1, encode(1, 1))
    with pytest.raises(Conflict, match="announce it first"):
        await here.output.append("mill", "nobody", 1, 1, encode(1, 1))
    assert await here.store.output.next("r") == 1


async def test_a_run_that_another_replica_was_told_of_is_found(here: SimpleNamespace, store_url: str) -> None:
    async with open_store(store_url) as other:
        await other.runs.change("r2", lambda _: Run(id="r2", machine="mill", started_at=NOON, changed_at=NOON))
    assert (await here.output.append("mill", "r2", 1, 1, encode(1, 1))).taken


async def test_a_follower_gets_what_was_and_what_comes(here: SimpleNamespace) -> None:
    await send(here.output, 5, 5)
    async with asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(take(here.output, 30 - after, after)) for after in (0, 3, 10)]
        await eventually(lambda: len(here.output._viewers["r"]) == 3)
        await send(here.output, 7, 1, 12, next=11)
    assert [task.result() for task in following] == [list(range(after + 1, 31)) for after in (0, 3, 10)]
    assert not here.output._viewers
    assert not here.output._tails


async def test_a_follower_on_another_replica_gets_it_too(here: SimpleNamespace, store_url: str) -> None:
    async with open_store(store_url) as other, Projection(other.projected, other.changes, other.epochs) as known:
        far = Output(other.output, Book(other.runs, known), decode)
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(take(far, 20))
            await eventually(lambda: far._viewers.get("r"))
            await send(here.output, 5, 5, 5, 5)
        assert following.result() == list(range(1, 21))


async def test_a_slow_viewer_costs_bounded_memory_and_misses_nothing(here: SimpleNamespace) -> None:
    total = BEHIND * 3
    async with aclosing(here.output.follow("r")) as batches:
        await send(here.output, 1)
        seqs = [event.seq for event in await anext(batches)]
        await send(here.output, *[100] * (total // 100), next=2)
        (viewer,) = here.output._viewers["r"]
        assert viewer.size <= BEHIND
        async for events in batches:
            seqs.extend(event.seq for event in events)
            if len(seqs) == total + 1:
                break
    assert seqs == list(range(1, total + 2))


async def test_what_is_no_longer_held_is_marked_by_a_gap(here: SimpleNamespace) -> None:
    assert await here.output.watermarks({"r": 101, "never": 1}) == {"r": 101, "never": 1}
    await send(here.output, 3, next=101)

    async with aclosing(here.output.follow("r", after=20)) as batches:
        (gap,) = await anext(batches)
        assert (gap.kind, gap.seq, gap.text) == ("gap", 100, "events 21 to 100 are no longer held here")
        assert [event.seq for event in await anext(batches)] == [101, 102, 103]
    assert await here.output.watermarks({"r": 50}) == {"r": 104}


async def test_what_another_still_holds_of_the_missing_comes_from_it_a_part_at_a_time(here: SimpleNamespace) -> None:
    await here.output.watermarks({"r": 101})
    await send(here.output, 3, next=101)
    asked: list[tuple[int, int]] = []

    async def older(first: int, below: int) -> list[Event]:
        asked.append((first, below))
        return decode(encode(first, min(30, below - first)))

    seqs: list[int] = []
    async with aclosing(here.output.follow("r", after=20, older=older)) as batches:
        while len(seqs) < 83:
            seqs += [event.seq for event in await anext(batches)]
    assert seqs == list(range(21, 104))
    assert asked == [(21, 101), (51, 101), (81, 101)]
    page, next, low = await here.output.read("r", 91, 50, older)
    assert ([event.seq for event in page], next, low) == (list(range(91, 101)), 104, 101)


async def test_what_is_only_a_number_any_more_is_asked_for_too(here: SimpleNamespace) -> None:
    await here.output.watermarks({"r": 4})  # nothing of it is in the store

    async def older(first: int, below: int) -> list[Event]:
        return decode(encode(first, below - first))

    assert [event.seq for event in (await here.output.read("r", 1, 10, older))[0]] == [1, 2, 3]
    async with aclosing(here.output.follow("r", older=older)) as batches:
        assert [event.seq for event in await anext(batches)] == [1, 2, 3]


async def test_seqs_are_those_of_the_batch_whatever_a_machine_wrote_into_it(here: SimpleNamespace) -> None:
    lie = json.dumps([(9000, "a"), (1, "b"), (-5, "c")]).encode()
    await here.output.append("mill", "r", 1, 3, lie)
    await here.output.append("mill", "r", 4, 2, lie)  # one too many
    await here.output.append("mill", "r", 6, 5, b"\xff\xfe damaged")
    await send(here.output, 1, next=11)

    events, next, _ = await here.output.read("r", 1, 100)
    assert [(e.seq, e.text) for e in events] == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
        (4, "b"),
        (5, "c"),
        (10, "damaged"),
        (11, "t11"),
    ]
    assert next == 12
    assert await take(here.output, 4, after=3) == [4, 5, 10, 11]


async def test_closing_ends_whoever_follows(here: SimpleNamespace) -> None:
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(take(here.output, 10))
        await eventually(lambda: here.output._viewers.get("r"))
        here.output.close()
    assert following.result() == []


async def test_a_purged_run_is_gone(here: SimpleNamespace) -> None:
    await send(here.output, 3)
    await here.output.purge("r")

    assert await here.output.read("r", 1, 10) == ([], 1, 1)
