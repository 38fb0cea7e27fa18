"""Output: whatever order batches come in, the stream ends with each event exactly once, in order."""

import asyncio
import json
from uuid import uuid4

import pytest
from helpers.valkey import own_valkey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from switchboard.domain.errors import Invalid, Unavailable
from switchboard.domain.output import Appended
from switchboard.store.redis import RedisStore, open_store

Sent = tuple[int, int]


def blob(first: int, count: int) -> bytes:
    return json.dumps(list(range(first, first + count))).encode()


async def held(store: RedisStore, run: str, first: int = 1) -> list[int]:
    batches = await store.output.read(run, first, 10**6)
    return [seq for batch in batches for seq in json.loads(batch.events)]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), max_size=40))
async def test_overlapping_gapped_and_repeated_batches(store: RedisStore, batches: list[Sent]) -> None:
    run, next = uuid4().hex, 1
    for first, count in batches:
        answer = await store.output.append(run, first, count, blob(first, count))
        taken = first == next
        next = next + count if taken else next
        assert answer == Appended(next=next, taken=taken)

    assert await held(store, run) == list(range(1, next))
    assert await store.output.next(run) == next
    assert await store.output.nexts([run, "never"]) == {run: next, "never": 1}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=15), min_size=2, max_size=4))
async def test_several_senders_of_one_run_who_all_obey_the_answer(store: RedisStore, cuts: list[list[int]]) -> None:
    """Two connections of one machine, of which the older one does not know yet that it is fenced."""
    run = uuid4().hex

    async def send(sizes: list[int]) -> None:
        next = 1
        for size in sizes:
            next = (await store.output.append(run, next, size, blob(next, size))).next

    await asyncio.gather(*(send(sizes) for sizes in cuts))

    seqs = await held(store, run)
    assert seqs == list(range(1, await store.output.next(run)))


async def test_reading_from_the_middle_starts_with_the_batch_that_holds_it(store: RedisStore) -> None:
    for first in range(1, 1000, 10):
        await store.output.append("r", first, 10, blob(first, 10))

    assert (await held(store, "r", 505))[0] == 501
    batches = await store.output.read("r", 505, 7)
    assert [(b.first, b.count) for b in batches] == [(501, 10), (511, 10)]
    assert await store.output.read("r", 1001, 10) == []
    assert await store.output.low("r") == 1


async def test_old_batches_leave_and_low_says_so(store_url: str) -> None:
    async with open_store(store_url, output_batches=50) as store:
        for first in range(1, 301):
            await store.output.append("r", first, 1, b"x" * 200)
        low = await store.output.low("r")

        assert 1 < low <= 251
        assert (await store.output.read("r", 1, 1))[0].first == low
        assert await store.output.next("r") == 301


async def test_a_counter_that_was_lost_is_found_again_in_the_stream(store: RedisStore) -> None:
    await store.output.append("r", 1, 5, blob(1, 5))
    await store.client.call("DEL", "sb:next:{r}", again=True)

    assert await store.output.next("r") == 6
    assert await store.output.append("r", 4, 2, blob(4, 2)) == Appended(next=6, taken=False)
    assert await store.output.append("r", 6, 2, blob(6, 2)) == Appended(next=8, taken=True)


async def test_what_nobody_holds_any_more_is_skipped_but_never_backwards(store: RedisStore) -> None:
    assert await store.output.skip("r", 501) == 501
    assert await store.output.skip("r", 20) == 501
    assert await store.output.append("r", 501, 1, blob(501, 1)) == Appended(next=502, taken=True)
    assert await store.output.low("r") == 501


async def test_a_purge_leaves_nothing(store: RedisStore) -> None:
    await store.output.append("r", 1, 1, b"x")
    await store.output.purge("r")

    assert await store.client.call("KEYS", "*{r}*", again=True) == []
    assert await store.output.next("r") == 1


@pytest.mark.parametrize(("first", "count"), [(0, 1), (1, 0), (-5, 10), (2**53, 1), (1, 2**60)])
async def test_numbers_that_are_no_batch_are_refused(store: RedisStore, first: int, count: int) -> None:
    with pytest.raises(Invalid, match="is no batch"):
        await store.output.append("r", first, count, b"")


async def test_large_seqs_stay_exact(store: RedisStore) -> None:
    start = 2**53 - 1000
    await store.output.skip("r", start)

    assert await store.output.append("r", start, 7, b"x") == Appended(next=start + 7, taken=True)
    assert (await store.output.read("r", start + 3, 1))[0].first == start


async def test_every_acknowledged_batch_survives_kill_9_in_the_middle_of_writing() -> None:
    async with own_valkey() as server, open_store(server.url) as store:

        async def send(run: str) -> int:
            next = 1
            while True:
                try:
                    next = (await store.output.append(run, next, 3, blob(next, 3))).next
                except Unavailable:
                    return next

        for round in range(4):
            runs = [f"{round}-{n}" for n in range(8)]
            async with asyncio.TaskGroup() as tasks:
                sending = {run: tasks.create_task(send(run)) for run in runs}
                await asyncio.sleep(0.1)  # how far they get is left to chance
                await server.kill()
            await server.restart()
            for run, task in sending.items():
                acknowledged = task.result()
                next = await store.output.next(run)
                assert next - acknowledged in (0, 3)  # one batch may have landed whose answer was lost
                assert await held(store, run) == list(range(1, next))
