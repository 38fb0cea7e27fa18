"""The audit chain: append-only, one chain however many write it, and every tampering shows."""

import asyncio
import random
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest
from helpers.valkey import own_valkey

from switchboard.domain.errors import Unavailable
from switchboard.store.redis import RedisStore, open_store


async def add(store: RedisStore, action: str = "order.issued", **more: Any) -> None:
    await store.audit.append(by="ana", via="session", action=action, subject="o1", reason="why", **more)


async def test_entries_are_chained_and_read_newest_first(store: RedisStore) -> None:
    for n in range(5):
        await add(store, f"a{n}")

    entries = await store.audit.read(None, 3)
    assert [(e.seq, e.action) for e in entries] == [(5, "a4"), (4, "a3"), (3, "a2")]
    assert entries[0].previous == entries[1].hash
    assert [e.seq for e in await store.audit.read(3, 10)] == [2, 1]
    assert await store.audit.verify() is None


async def test_two_replicas_lengthen_one_chain(store_url: str) -> None:
    async with open_store(store_url) as one, open_store(store_url) as two:
        await asyncio.gather(*(add(store, f"a{n}") for n in range(150) for store in (one, two)))

        entries = await one.audit.read(None, 1000)
        assert [e.seq for e in entries] == list(range(300, 0, -1))
        assert await two.audit.verify() is None


async def test_what_happened_once_is_there_once_whoever_writes_it_and_however_often(store_url: str) -> None:
    async with open_store(store_url) as one, open_store(store_url) as two:
        await add(one, "a1", once="v1")
        await asyncio.gather(
            *(add(store, f"a{n % 9}", once="v1") for n in range(90) for store in (one, two)),
            *(add(store, "b") for _ in range(10) for store in (one, two)),
        )
        await add(two, "a1", once="v2")

        found = [e.action for e in await one.audit.read(None, 1000)]
        assert sorted(found) == sorted([*(f"a{n}" for n in range(9)), *["b"] * 20, "a1"])
        assert await two.audit.verify() is None


async def test_whatever_the_details_hold_the_chain_stays_whole(store: RedisStore) -> None:
    Mood = StrEnum("Mood", "CALM")
    strange = {
        "when": datetime(2026, 1, 1, tzinfo=UTC),
        "mood": Mood.CALM,
        "set": frozenset({1}),
        "tuple": (1, 2),
        "big": 10**40,
        "nan": float("nan"),
        "float": 1.0,
        "lone": "\ud800",
        "bytes": b"\xff",
        "thing": object,
        5: None,
        "nest": {"a": [{"b": "\u202e\x00"}]},
    }
    await add(store, "strange\ud800", details=strange)
    await add(store)

    assert await store.audit.verify() is None
    entry = (await store.audit.read(2, 1))[0]
    assert entry.details["tuple"] == [1, 2]
    assert entry.action == "strange?"


async def test_every_edit_deletion_and_reordering_is_found(store: RedisStore) -> None:
    for start in range(40):
        await add(store, f"a{start}", details={"n": start})
    key, head = "sb:{audit}:log", "sb:{audit}:head"
    entries = await store.client.call("XRANGE", key, "-", "+", again=True)
    dice = random.Random(7)

    async def write(lines: list[tuple[bytes, bytes]]) -> None:
        await store.client.call("DEL", key, again=True)
        await store.client.calls([("XADD", key, id, "j", blob) for id, blob in lines], again=True)

    whole = [(id, fields[1]) for id, fields in entries]
    for _ in range(150):
        lines = list(whole)
        place = dice.randrange(len(lines))
        match dice.choice(["edit", "delete", "swap", "cut"]):
            case "edit":
                id, blob = lines[place]
                spot = blob.index(b'"n":') + 4 if dice.random() < 0.5 else blob.index(b"ana")
                lines[place] = (id, blob[:spot] + b"9" + blob[spot:])
            case "delete":
                del lines[place]
            case "swap":
                other = (place + 1) % len(lines)
                (a, x), (b, y) = lines[place], lines[other]
                lines[place], lines[other] = (a, y), (b, x)
            case "cut":
                lines = lines[: place or 1]
                if len(lines) == len(whole):
                    continue
        await write(lines)
        assert await store.audit.verify() is not None, lines
    await write(whole)
    assert await store.audit.verify() is None
    await store.client.call("SET", head, "40 forged", again=True)
    assert await store.audit.verify() == 41


async def test_a_damaged_entry_is_shown_as_such(store: RedisStore) -> None:
    await store.client.call("XADD", "sb:{audit}:log", "1-0", "j", b"{", again=True)

    assert [(e.seq, e.action) for e in await store.audit.read(None, 5)] == [(1, "audit.damaged")]


async def test_it_says_when_the_store_is_away_and_goes_on_afterwards() -> None:
    async with own_valkey() as server, open_store(server.url) as store:
        await add(store)
        await server.kill()
        results = await asyncio.gather(*(add(store) for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 5
        await server.restart()
        await add(store)
        assert await store.audit.verify() is None
        assert len(await store.audit.read(None, 100)) == 2


async def test_a_caller_that_is_cancelled_takes_no_other_entry_with_it(store: RedisStore) -> None:
    async with asyncio.TaskGroup() as tasks:
        adding = [tasks.create_task(add(store, f"a{n}")) for n in range(50)]
        await asyncio.sleep(0)
        for task in adding[:10]:
            task.cancel()

    found = {e.action for e in await store.audit.read(None, 100)}
    assert {f"a{n}" for n in range(10, 50)} <= found
    assert await store.audit.verify() is None


async def test_after_a_wipe_the_chain_begins_anew(store: RedisStore) -> None:
    await add(store)
    await store.client.call("FLUSHALL", again=True)
    await add(store, "later")

    assert [(e.seq, e.action) for e in await store.audit.read(None, 5)] == [(1, "later")]
    assert await store.audit.verify() is None


@pytest.mark.parametrize("before", [0, -3, 1])
async def test_before_the_first_there_is_nothing(store: RedisStore, before: int) -> None:
    await add(store)

    assert await store.audit.read(before, 5) == []
