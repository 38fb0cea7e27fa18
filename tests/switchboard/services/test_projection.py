"""The projection over the real store: what it knows is what the store holds, whatever is lost on the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from helpers.eventually import eventually
from helpers.valkey import own_valkey

from switchboard.domain.errors import Conflict
from switchboard.domain.instruction import Instruction, Kind
from switchboard.domain.run import Run
from switchboard.services.book import Book
from switchboard.services.feed import Feed
from switchboard.services.projection import Projection
from switchboard.store.codec import Codec
from switchboard.store.redis import RedisStore, open_store

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def run(id: str = "r1", owner: str = "") -> Run:
    return Run(id=id, machine="mill", owner=owner, started_at=NOON, changed_at=NOON)


def owned(owner: str):  # type: ignore[no-untyped-def]
    return lambda present: replace(present, owner=owner)


async def exhausted(feed: Feed) -> None:
    async for _ in feed:
        pass


def over(store: RedisStore, reread: float = 3600) -> Projection:
    return Projection(store.projected, store.changes, store.epochs, reread=reread)


@pytest.fixture
async def projection(store: RedisStore) -> AsyncIterator[Projection]:
    async with over(store) as known:
        yield known


@pytest.fixture
def runs(store: RedisStore, projection: Projection) -> Book[Run]:
    return Book(store.runs, projection)


async def test_it_starts_with_everything_that_is_there(store: RedisStore) -> None:
    blob = Codec(Run)
    ids = [f"r{n}" for n in range(10_000)]
    fill = [("SET", f"sb:run:{{{id}}}", b"1 t " + blob.dump(run(id))) for id in ids]
    await store.client.calls([*fill, ("SADD", "sb:ids:run", *ids)], again=True)

    async with over(store) as known:
        assert {r.id for r in known.runs()} == set(ids)
        assert known.run("r7") == run("r7")
        assert known.run("r9999x") is None


async def test_a_writer_reads_its_own_writes_at_once(runs: Book[Run], projection: Projection) -> None:
    await runs.change("r1", lambda _: run())
    assert projection.run("r1") == run()
    await runs.change("r1", owned("ana"))
    assert projection.run("r1") == run(owner="ana")
    await runs.delete("r1")
    assert projection.run("r1") is None
    assert projection.runs() == []


async def test_another_replicas_writes_arrive_by_the_change_stream(store: RedisStore, projection: Projection) -> None:
    await store.runs.change("r1", lambda _: run())
    await eventually(lambda: projection.run("r1") == run())
    await store.runs.change("r1", owned("ben"))
    await eventually(lambda: projection.run("r1") == run(owner="ben"))
    await store.runs.delete("r1")
    await eventually(lambda: projection.run("r1") is None)


async def test_it_converges_when_wake_ups_are_lost(store: RedisStore) -> None:
    async with over(store, reread=0.3) as known:
        await store.runs.change("gone", lambda _: run("gone"))
        await store.runs.change("kept", lambda _: run("kept"))
        await eventually(lambda: known.run("kept"))
        await store.publisher.settled()
        # As if every entry were lost: the writes themselves, and no stream.
        blob: bytes = await store.client.call("GET", "sb:run:{kept}", again=True)
        version, rest = blob.replace(b'"owner":""', b'"owner":"kim"').split(b" ", 1)
        feed = known.feed()
        silent = [
            ("SET", "sb:run:{kept}", b"%d %s" % (int(version) + 1, rest)),
            ("DEL", "sb:run:{gone}"),
            ("SREM", "sb:ids:run", "gone"),
            ("DEL", "sb:changes"),
        ]
        await store.client.calls(silent, again=True)

        await eventually(lambda: known.run("kept") == run("kept", owner="kim"))
        await eventually(lambda: known.run("gone") is None)
        assert {(await anext(feed))[2] for _ in range(2)} == {"kept", "gone"}


async def test_a_write_that_the_store_lost_is_not_remembered_for_ever(store: RedisStore) -> None:
    """After a fail-over the store holds an older version, which is the truth all the same."""
    async with over(store, reread=3600) as known:
        book = Book(store.runs, known)
        await book.change("r1", lambda _: run(owner="ana"))
        old = await store.client.call("GET", "sb:run:{r1}", again=True)
        await book.change("r1", owned("ben"))
        await store.client.call("SET", "sb:run:{r1}", old, again=True)

        await known.reread()
        assert known.run("r1") == run(owner="ana")
        await book.change("r1", lambda present: replace(present, branch=present.owner))  # type: ignore[type-var]
        assert known.run("r1") == replace(run(owner="ana"), branch="ana")


async def test_a_value_that_cannot_be_read_any_more_stays_as_it_was_last_known(
    store: RedisStore, projection: Projection
) -> None:
    await Book(store.runs, projection).change("r1", lambda _: run())
    await store.client.call("SET", "sb:run:{r1}", b'99999999999999 t {"state":"asleep"}', again=True)
    await projection.reread()

    assert projection.run("r1") == run()


async def test_receipts_and_instructions_are_found_by_what_they_belong_to(
    store: RedisStore, projection: Projection
) -> None:
    book = Book(store.instructions, projection)

    def told(id: str, machine: str) -> Instruction:
        return Instruction(
            id=id, machine=machine, kind=Kind.MESSAGE, run="r", body={"text": "x"}, by="ana", at=NOON, lapses_at=NOON
        )

    for n in range(6):
        await book.change(f"i{n}", lambda _, n=n: told(f"i{n}", f"m{n % 2}"))
    await book.delete("i0")

    assert {i.id for i in projection.instructions("m0")} == {"i2", "i4"}
    assert {i.id for i in projection.instructions("m1")} == {"i1", "i3", "i5"}
    assert projection.instructions("m2") == []


async def test_listeners_hear_of_every_change_once_and_a_failing_one_hurts_nobody(
    runs: Book[Run], projection: Projection
) -> None:
    heard: list[tuple[str, str]] = []
    projection.listen(lambda noun, id: 1 / 0)
    end = projection.listen(lambda noun, id: heard.append((noun, id)))
    await runs.change("r1", lambda _: run())
    await runs.change("r1", lambda _: run())  # the same
    await runs.change("r1", owned("ana"))
    await projection.reread()
    end()
    await runs.delete("r1")

    assert heard == [("run", "r1")] * 2


async def test_a_viewer_takes_up_where_it_was_cut_off(runs: Book[Run], projection: Projection) -> None:
    async with aclosing(projection.feed()) as feed:
        await runs.change("a", lambda _: run("a"))
        place, *what = await anext(feed)
        assert what == ["run", "a"]
        await runs.change("b", lambda _: run("b"))
        await runs.change("c", lambda _: run("c"))
        assert [(await anext(feed))[2] for _ in range(2)] == ["b", "c"]

    async with aclosing(projection.feed(place)) as again:
        assert [(await anext(again))[2] for _ in range(2)] == ["b", "c"]


async def test_a_place_that_is_not_known_and_a_viewer_who_is_too_slow_start_over(
    runs: Book[Run], projection: Projection
) -> None:
    for place in ("", "0-1", "x", "1795445883621-0"):
        with pytest.raises(Conflict, match="look at everything again"):
            projection.feed(place)
    slow = projection.feed()
    start = projection.position
    runs_store = runs._records
    await asyncio.gather(*(runs_store.change(f"r{n}", lambda _, n=n: run(f"r{n}")) for n in range(2500)))  # type: ignore[misc]
    await eventually(lambda: len(projection.runs()) == 2500 and projection.position > start)

    with pytest.raises(Conflict, match="look at everything again"):
        await exhausted(slow)


async def test_the_end_ends_every_feed(store: RedisStore) -> None:
    async with over(store) as known:
        feed = known.feed()
    assert [item async for item in feed] == []


async def test_a_store_that_comes_back_empty_is_noticed(store: RedisStore) -> None:
    async with over(store, reread=0.3) as known:
        book = Book(store.runs, known)
        await book.change("r1", lambda _: run())
        was = known.epoch
        feed = known.feed()
        await store.client.call("FLUSHALL", again=True)
        await eventually(lambda: known.epoch != was)
        await eventually(lambda: known.run("r1") is None)
        await book.change("r1", lambda _: run(owner="ana"))
        assert known.run("r1") == await store.runs.get("r1") == run(owner="ana")
        with pytest.raises(Conflict, match="look at everything again"):
            await exhausted(feed)


async def test_it_goes_on_by_itself_after_the_store_was_away() -> None:
    async with own_valkey() as server, open_store(server.url) as store, over(store) as known:
        await store.runs.change("r1", lambda _: run())
        await eventually(lambda: known.run("r1"))
        for n in range(3):
            await server.kill_and_restart()
            await store.runs.change("r1", owned(f"p{n}"))
            await eventually(lambda n=n: known.run("r1") == run(owner=f"p{n}"))


async def test_two_replicas_agree(store_url: str) -> None:
    async with open_store(store_url) as one, open_store(store_url) as two, over(one) as left, over(two) as right:
        books = [Book(one.runs, left), Book(two.runs, right)]

        async def work(book: Book[Run], name: str) -> None:
            for n in range(40):
                id = f"r{n % 5}"
                if n % 11 == 10:
                    await book.delete(id)
                else:
                    await book.change(id, lambda _, id=id, n=n: run(id, owner=f"{name}{n}"))

        await asyncio.gather(work(books[0], "a"), work(books[1], "b"))
        truth = {r.id: r for r in await one.runs.all()}

        for known in (left, right):
            await eventually(lambda known=known: {r.id: r for r in known.runs()} == truth)
