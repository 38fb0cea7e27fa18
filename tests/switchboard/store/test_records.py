"""Records over the real server: saved once, by one winner, readable across versions."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from helpers.valkey import ManualClock

from switchboard.domain.errors import Conflict, Invalid, Unavailable
from switchboard.domain.people import Link, Permission, Token
from switchboard.domain.run import Run, RunState
from switchboard.store.redis import RedisStore, open_store

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def run(id: str = "r1", **more: object) -> Run:
    return replace(Run(id=id, machine="mill", started_at=NOON, changed_at=NOON), **more)


async def raw(store: RedisStore, *command: object) -> object:
    return await store.client.call(*command, again=False)


async def test_a_value_comes_back_as_it_was_saved(store: RedisStore) -> None:
    first = run(prompt="naïve \u202e \x00 <script>", scope=("a/**",), not_gated=("reads",), state=RunState.WAITING)
    saved = await store.runs.change("r1", lambda _: first)

    assert saved == first
    assert await store.runs.get("r1") == first
    assert await store.runs.all() == [first]
    assert await store.runs.ids() == ["r1"]


async def test_sets_and_ends_of_life_survive(store: RedisStore) -> None:
    token = Token(
        id="t", name="up", person="ana", permits=frozenset({Permission.LOOK}), until=datetime.now(UTC) + timedelta(1)
    )
    await store.tokens.change("t", lambda _: token)

    assert await store.tokens.get("t") == token
    assert 0 < int(await raw(store, "PTTL", "sb:token:{t}")) <= 2 * 86_400_000  # type: ignore[call-overload]


async def test_what_lapsed_leaves_the_index(store: RedisStore) -> None:
    link = Link(id="l", person="ana", until=datetime.now(UTC) + timedelta(minutes=15))
    await store.links.change("l", lambda _: link)
    await store.publisher.settled()
    await raw(store, "DEL", "sb:link:{l}")

    assert await store.links.all() == []
    assert await raw(store, "SCARD", "sb:ids:link") == 0


async def test_none_leaves_it_and_an_equal_value_is_not_written(store: RedisStore) -> None:
    assert await store.runs.change("r1", lambda _: None) is None
    saved = await store.runs.settle("r1", lambda _: run())
    again = await store.runs.settle("r1", lambda _: run())

    assert again.version == saved.version


async def test_a_refusal_of_decide_reaches_the_caller_and_changes_nothing(store: RedisStore) -> None:
    await store.runs.change("r1", lambda _: run())

    def refuse(_: Run | None) -> Run:
        raise Conflict("no")

    with pytest.raises(Conflict, match="no"):
        await store.runs.change("r1", refuse)
    assert await store.runs.get("r1") == run()


async def test_fifty_deciders_have_exactly_one_winner(store: RedisStore) -> None:
    await store.runs.change("r1", lambda _: run())

    async def claim(n: int) -> bool:
        def decide(present: Run | None) -> Run:
            assert present is not None
            if present.owner:
                raise Conflict(f"it is {present.owner}'s")
            return replace(present, owner=f"p{n}")

        try:
            await store.runs.change("r1", decide)
        except Conflict:
            return False
        return True

    won = await asyncio.gather(*(claim(n) for n in range(50)))

    assert won.count(True) == 1
    found = await store.runs.get("r1")
    assert found is not None
    assert found.owner == f"p{won.index(True)}"


async def test_fifty_counters_all_count(store: RedisStore) -> None:
    await store.runs.change("r1", lambda _: run(revision=0))

    def count(present: Run | None) -> Run:
        assert present is not None
        return replace(present, revision=present.revision + 1)

    await asyncio.gather(*(store.runs.change("r1", count) for _ in range(50)))

    found = await store.runs.get("r1")
    assert found is not None
    assert found.revision == 50


async def test_a_stale_guess_is_never_the_last_word(store: RedisStore) -> None:
    old = await store.runs.settle("r1", lambda _: run(owner=""))
    await store.runs.change("r1", lambda r: replace(r, owner="kim"))  # type: ignore[type-var]
    seen: list[str] = []

    def decide(present: Run | None) -> Run:
        assert present is not None
        seen.append(present.owner)
        return replace(present, branch="main")

    saved = await store.runs.settle("r1", decide, held=old)

    assert seen == ["", "kim"]
    assert saved.value == run(owner="kim", branch="main")


async def test_a_refusal_of_a_stale_guess_is_asked_again(store: RedisStore) -> None:
    old = await store.runs.settle("r1", lambda _: run(owner="ana"))
    await store.runs.change("r1", lambda r: replace(r, owner=""))  # type: ignore[type-var]

    def decide(present: Run | None) -> Run:
        assert present is not None
        if present.owner:
            raise Conflict("taken")
        return replace(present, owner="ben")

    saved = await store.runs.settle("r1", decide, held=old)

    assert saved.value == run(owner="ben")


async def test_an_id_that_was_deleted_and_made_again_is_another_record(store: RedisStore) -> None:
    old = await store.runs.settle("r1", lambda _: run(owner="ana"))
    await store.runs.delete("r1")
    assert await store.runs.get("r1") is None
    assert await store.runs.ids() == []
    await asyncio.sleep(0.005)  # versions start at the clock, which counts milliseconds
    again = await store.runs.settle("r1", lambda _: run(owner="ben"))

    assert again.version > old.version
    saved = await store.runs.settle("r1", lambda r: replace(r, branch="x"), held=old)  # type: ignore[type-var]
    assert saved.value == run(owner="ben", branch="x")


async def test_versions_rise_even_when_the_clock_goes_back(store_url: str) -> None:
    clock = ManualClock(NOON)
    async with open_store(store_url, clock=clock) as store:
        first = await store.runs.settle("r1", lambda _: run())
        clock.forward(timedelta(days=-1))
        second = await store.runs.settle("r1", lambda r: replace(r, branch="x"))  # type: ignore[type-var]

        assert second.version == first.version + 1


async def test_fields_of_a_newer_switchboard_are_ignored_and_kept(store: RedisStore) -> None:
    await store.runs.change("r1", lambda _: run())
    blob = await raw(store, "GET", "sb:run:{r1}")
    assert isinstance(blob, bytes)
    await raw(store, "SET", "sb:run:{r1}", blob.replace(b'{"id"', b'{"mood":["calm"],"id"'))

    assert await store.runs.get("r1") == run()
    await store.runs.change("r1", lambda r: replace(r, branch="x"))  # type: ignore[type-var]

    blob = await raw(store, "GET", "sb:run:{r1}")
    assert isinstance(blob, bytes)
    assert b'"mood":["calm"]' in blob
    assert b'"branch":"x"' in blob


async def test_fields_that_an_older_switchboard_did_not_write_take_their_defaults(store: RedisStore) -> None:
    short = (
        b'5 abcd {"id":"r1","machine":"mill","started_at":"2026-01-01T12:00:00Z","changed_at":"2026-01-01T12:00:00Z"}'
    )
    await raw(store, "SET", "sb:run:{r1}", short)

    assert await store.runs.get("r1") == run()


@pytest.mark.parametrize(
    "damaged", [b"", b"x", b"7", b"7 t", b"7 t {", b"7 t []", b'7 t {"id":1}', b'7 t {"state":"asleep"}', b"\xff\xfe 1"]
)
async def test_a_value_that_does_not_load_is_left_out_of_lists_and_never_overwritten(
    store: RedisStore, damaged: bytes
) -> None:
    await store.runs.change("good", lambda _: run("good"))
    await store.runs.change("bad", lambda _: run("bad"))
    await raw(store, "SET", "sb:run:{bad}", damaged)

    assert await store.runs.all() == [run("good")]
    with pytest.raises(Unavailable, match="run bad cannot be read"):
        await store.runs.get("bad")
    with pytest.raises(Unavailable, match="run bad cannot be read"):
        await store.runs.change("bad", lambda _: run("bad"))
    assert await raw(store, "GET", "sb:run:{bad}") == damaged


@pytest.mark.parametrize("id", ["a/b/1", "../../etc", "{x}", "}{", "a b\n\x00", "*", "ünï"])
async def test_hostile_ids_stay_apart(store: RedisStore, id: str) -> None:
    await store.runs.change(id, lambda _: run(id))
    await store.runs.change(id + "x", lambda _: run(id + "x"))

    assert await store.runs.get(id) == run(id)
    assert sorted(await store.runs.ids()) == sorted([id, id + "x"])


@pytest.mark.parametrize("id", ["", "x" * 513, "\ud800"])
async def test_an_id_that_is_none_is_the_callers_mistake(store: RedisStore, id: str) -> None:
    with pytest.raises(Invalid, match="the id of a run"):
        await store.runs.change(id, lambda _: run(id))


async def test_text_that_is_no_unicode_is_the_callers_mistake(store: RedisStore) -> None:
    with pytest.raises(Invalid, match="not Unicode"):
        await store.runs.change("r1", lambda _: run(prompt="\ud800"))


async def test_ten_thousand_are_listed_whole(store: RedisStore) -> None:
    for start in range(0, 10_000, 2_000):
        await asyncio.gather(
            *(store.runs.change(f"r{n}", lambda _, n=n: run(f"r{n}")) for n in range(start, start + 2_000))
        )

    assert {r.id for r in await store.runs.all()} == {f"r{n}" for n in range(10_000)}


async def test_every_save_and_deletion_wakes_whoever_follows(store: RedisStore) -> None:
    before = await store.changes.newest()
    saved = await store.runs.settle("r1", lambda _: run())
    version = await store.runs.drop("r1")
    await store.publisher.settled()

    async for batch in store.changes.follow(before):
        assert [(c.noun, c.subject, c.version) for c in batch] == [("run", "r1", saved.version), ("run", "r1", version)]
        break
    assert version > saved.version


async def test_sessions_and_secrets_wake_nobody(store: RedisStore) -> None:
    link = Link(id="l", person="ana", until=datetime.now(UTC) + timedelta(minutes=15))
    await store.links.change("l", lambda _: link)
    await store.publisher.settled()

    assert await store.changes.newest() == "0-0"


async def test_a_lost_function_library_is_put_back(store: RedisStore) -> None:
    await raw(store, "FUNCTION", "FLUSH")

    assert await store.runs.change("r1", lambda _: run()) == run()


async def test_an_older_and_a_newer_library_stand_side_by_side(store: RedisStore) -> None:
    later = "#!lua name=switchboard_v9\nredis.register_function('switchboard_v9_record_save', function() return 9 end)"
    await raw(store, "FUNCTION", "LOAD", "REPLACE", later)

    assert await store.runs.change("r1", lambda _: run()) == run()
    assert await raw(store, "FCALL", "switchboard_v9_record_save", 1, "x") == 9
