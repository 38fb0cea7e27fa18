"""The change stream: nothing that follows it is ever told less than "look at everything again"."""

import asyncio
from contextlib import aclosing

import pytest
from helpers.eventually import eventually
from helpers.valkey import own_valkey

from switchboard.domain.errors import Conflict, Unavailable
from switchboard.store.changes import START
from switchboard.store.redis import RedisStore, open_store


async def first(store: RedisStore, after: str | None, count: int = 1) -> list[str]:
    found: list[str] = []
    async with aclosing(store.changes.follow(after)) as batches:
        async for batch in batches:
            found.extend(change.subject for change in batch)
            if len(found) >= count:
                break
    return found


async def put(store: RedisStore, *ids: str) -> None:
    for id in ids:
        store.publisher.put("run", id, 1)
    await store.publisher.settled()


async def test_everything_after_a_place_comes_once_and_in_order(store: RedisStore) -> None:
    await put(store, "a")
    place = await store.changes.newest()
    many = [f"r{n}" for n in range(2500)]
    await put(store, *many)

    assert await first(store, place, 2500) == many


async def test_the_beginning_of_an_empty_stream_is_a_place(store: RedisStore) -> None:
    place = await store.changes.newest()
    assert place == START

    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(first(store, place))
        await put(store, "a")
    assert reading.result() == ["a"]


async def test_now_means_from_now_on(store: RedisStore) -> None:
    await put(store, "old")
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(first(store, None))
        blocked = lambda: store.client.call("CLIENT", "LIST", again=True)  # noqa: E731
        await eventually(lambda: _has(blocked, b"cmd=xread"))
        await put(store, "new")
    assert reading.result() == ["new"]


async def _has(ask: object, text: bytes) -> bool:
    return text in await ask()  # type: ignore[operator]


async def test_a_place_that_was_trimmed_is_refused(store: RedisStore) -> None:
    await put(store, "a")
    place = await store.changes.newest()
    await put(store, *[f"r{n}" for n in range(50)])
    await store.client.call("XTRIM", "sb:changes", "MAXLEN", 3, again=True)

    with pytest.raises(Conflict, match="look at everything again"):
        await first(store, place)
    with pytest.raises(Conflict, match="look at everything again"):
        await first(store, START)


@pytest.mark.parametrize("place", ["", "x", "1-2-3", "-1-0", "9" * 30, "1795445883621-0", "\ud800"])
async def test_a_place_that_never_was_is_refused(store: RedisStore, place: str) -> None:
    with pytest.raises(Conflict, match="look at everything again"):
        await first(store, place)


async def test_a_stream_that_is_lost_while_somebody_waits_is_noticed(store: RedisStore) -> None:
    await put(store, "a")
    place = await store.changes.newest()
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(_conflict(store, place))
        await store.client.call("DEL", "sb:changes", again=True)
    assert reading.result()


async def _conflict(store: RedisStore, place: str) -> bool:
    try:
        await first(store, place)
    except Conflict:
        return True
    return False


async def test_a_cut_link_shows_as_unavailable_and_wake_ups_wait_for_the_server() -> None:
    async with own_valkey() as server, open_store(server.url) as store:
        await put(store, "a")
        place = await store.changes.newest()
        await server.kill()
        store.publisher.put("run", "b", 1)
        with pytest.raises(Unavailable, match="the store is away"):
            await first(store, place)
        await server.restart()

        assert await first(store, place) == ["b"]


async def test_entries_of_somebody_else_are_passed_over(store: RedisStore) -> None:
    place = await store.changes.newest()
    await store.client.call("XADD", "sb:changes", "*", "what", "ever", again=True)
    await put(store, "a")

    assert await first(store, place) == ["a"]


async def test_the_stream_stays_within_its_bound(store: RedisStore) -> None:
    fill = "for n = 1, 115000 do redis.call('XADD', KEYS[1], '*', 'n', 'run', 'i', n) end"
    await store.client.call("EVAL", fill, 1, "sb:changes", again=False)
    await put(store, "a", "b", "c")

    assert int(await store.client.call("XLEN", "sb:changes", again=True)) <= 101_000
