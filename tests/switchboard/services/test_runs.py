"""Starting, talking to and listing runs, over the real store and real machines' streams."""

from datetime import timedelta

import pytest
from helpers.eventually import eventually
from helpers.fleet import ANA, BEN, KIM, core, person, run, token_of
from helpers.valkey import ManualClock

from switchboard.domain.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from switchboard.domain.people import Role
from switchboard.domain.run import RunState
from switchboard.domain.stop import Selector
from switchboard.services.runs import RunFilter

ORDER = {"path": "/src", "agent": "claude", "prompt": "mend it"}


async def test_one_machine_is_the_default_and_with_two_one_must_be_named(store_url):
    async with core(store_url) as sb:
        with pytest.raises(NotFound, match="no machine has joined yet"):
            await sb.runs.start(ANA, machine=None, **ORDER)
        mill = await sb.machine("mill")
        with pytest.raises(Unavailable, match="machine mill is away"):
            await sb.runs.start(ANA, machine=None, **ORDER)
        async with mill.attached():
            started, _ = await sb.runs.start(ANA, machine=None, **ORDER)
            assert (started.machine, started.owner, started.state) == (mill.id, "ana", RunState.ORDERED)
            await sb.machine("forge")
            with pytest.raises(Invalid, match="2 machines"):
                await sb.runs.start(ANA, machine=None, **ORDER)
            with pytest.raises(Unavailable, match="machine forge is away"):
                await sb.runs.start(ANA, machine="forge", **ORDER)
            with pytest.raises(NotFound, match="there is no machine"):
                await sb.runs.start(ANA, machine="../mill\n", **ORDER)


async def test_the_same_request_starts_one_run(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            first = await sb.runs.start(ANA, machine="mill", **ORDER, request_id="click-1")
            again = await sb.runs.start(ANA, machine="mill", **ORDER, request_id="click-1")
            other = await sb.runs.start(BEN, machine="mill", **ORDER, request_id="click-1")
            assert first == again
            assert other[0].id != first[0].id
            await eventually(lambda: len(stream.instructions) == 2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "x" * ((1 << 20) + 1)}, "at most 1,048,576"),
        ({"prompt": "\udc00"}, "surrogate"),
        ({"path": ""}, "which repository"),
        ({"agent": ""}, "which agent"),
        ({"mode": "yolo"}, "is not known"),
        ({"scope": ("",)}, "a scope is empty"),
        ({"scope": ("x",) * 101}, "too many"),
    ],
)
async def test_a_start_that_will_not_do_is_one_clear_sentence(store_url, change, why):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached():
            with pytest.raises(Invalid, match=why):
                await sb.runs.start(ANA, machine="mill", **{**ORDER, **change})
            assert sb.projection.runs() == []


async def test_a_token_starts_and_touches_only_on_its_own_machine(store_url):
    async with core(store_url) as sb:
        mill, forge = await sb.machine("mill"), await sb.machine("forge")
        token = token_of("ana", mill.id)
        async with mill.attached() as stream, forge.attached() as other:
            started, _ = await sb.runs.start(token, machine=None, **ORDER)
            assert started.machine == mill.id
            await stream.run(started.id)
            await other.run("r-other")
            with pytest.raises(Forbidden):
                await sb.runs.start(token, machine="forge", **ORDER)
            with pytest.raises(Forbidden):
                await sb.runs.interrupt(token, "r-other")
            with pytest.raises(Forbidden):
                await sb.stops.stop_run(token, "r-other", "no")
            assert not sb.runs.may_read(token, sb.projection.run("r-other"))
            order = await sb.stops.issue(token, Selector(all=True), "mine")
            assert order.selector.machines == (mill.id,)
            assert set(order.expected) == {started.id}
            with pytest.raises(Forbidden, match="a token may never lift"):
                await sb.stops.lift(token, order.id, "loosen")
            with pytest.raises(Forbidden):
                await sb.stops.issue(token, Selector(machines=(forge.id,)), "theirs")


async def test_a_standing_hold_refuses_a_start_with_who_and_why(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.run("r-0", "SUCCEEDED", path="/src", repo="example.org/mill")
            other = await sb.stops.issue(KIM, Selector(repos=("example.org/other",)), "not this one")
            order = await sb.stops.issue(KIM, Selector(repos=("example.org/mill",)), "incident 7")
            with pytest.raises(Conflict, match=f"held by order {order.id} of kim: incident 7"):
                await sb.runs.start(ANA, machine="mill", **ORDER)
            with pytest.raises(Conflict, match="held by order"):
                await sb.runs.resume(ANA, "r-0")
            # A path that this server has never seen is its daemon's to judge.
            await sb.runs.start(ANA, machine="mill", **{**ORDER, "path": "/elsewhere"})
            await sb.stops.lift(KIM, order.id, "over")
            await sb.runs.start(ANA, machine="mill", **ORDER)
            assert not sb.projection.order(other.id).lifted


async def test_words_to_a_run_fit_its_state(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.run("r-1", "IDLE")
            await stream.run("r-2", "STOPPED")
            await stream.run("r-3", "REFUSED")
            await sb.runs.message(BEN, "r-1", "and the tests?", request_id="c")
            await sb.runs.message(BEN, "r-1", "and the tests?", request_id="c")
            await sb.runs.interrupt(BEN, "r-1", "wrong branch")
            await sb.runs.end(BEN, "r-1")
            await sb.runs.resume(BEN, "r-2", "go on")
            for call in (sb.runs.message(BEN, "r-2", "x"), sb.runs.interrupt(BEN, "r-2"), sb.runs.end(BEN, "r-2")):
                with pytest.raises(Conflict, match="r-2 is stopped"):
                    await call
            for call in (sb.runs.resume(BEN, "r-1"), sb.runs.resume(BEN, "r-3")):
                with pytest.raises(Conflict, match="nothing to resume"):
                    await call
            with pytest.raises(Forbidden):
                await sb.runs.message(person("zoe", Role.VIEWER), "r-1", "x")
            with pytest.raises(NotFound):
                await sb.runs.end(BEN, "r-0")
            await eventually(lambda: len(stream.instructions) == 4)
            kinds = [i.WhichOneof("kind") for i in stream.instructions]
            assert kinds == ["message", "interrupt", "end", "resume"]
        await eventually(lambda: not sb.presence.attached(mill.id))
        with pytest.raises(Unavailable, match="is away since"):
            await sb.runs.message(BEN, "r-1", "x")


async def test_who_may_read_what_a_run_printed(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.run("r-1", owner="ana")
            found = sb.projection.run("r-1")
            for caller, may in (
                (person("ana", Role.DEVELOPER), True),
                (person("zoe", Role.DEVELOPER), False),
                (person("zoe", Role.VIEWER), False),
                (person("zoe", Role.REVIEWER), True),
                (person("zoe", Role.VIEWER, solo=True), True),
                (token_of("ana", mill.id), True),
                (token_of("zoe", mill.id), False),
            ):
                assert sb.runs.may_read(caller, found) is may


async def test_the_list_is_newest_first_filtered_and_paged(store_url):
    async with core(store_url) as sb:
        mill, forge = await sb.machine("mill"), await sb.machine("forge")
        async with mill.attached() as stream, forge.attached() as other:
            for n in range(25):
                await stream.run(f"r-{n:02}", age_ms=1000 * (100 - n), owner=("ana", "ben")[n % 2])
            await other.run("r-ended", "FAILED", repo="example.org/forge", agent="codex")
            pages, after = [], None
            while True:
                page = sb.runs.rows(RunFilter(limit=10, after=after))
                pages.append([row.run.id for row in page.rows])
                after = page.next
                if after is None:
                    break
            assert [len(page) for page in pages] == [10, 10, 5]
            assert [id for page in pages for id in page] == [f"r-{n:02}" for n in reversed(range(25))]

            def ids(**wanted):
                return {row.run.id for row in sb.runs.rows(RunFilter(**wanted)).rows}

            assert ids(repo="example.org/forge") == set()
            assert ids(repo="example.org/forge", all=True) == ids(state="failed") == {"r-ended"}
            assert ids(machine="forge", all=True) == ids(machine=forge.id, all=True) == {"r-ended"}
            assert len(ids(owner="ben")) == 12
            assert ids(agent="codex", all=True) == {"r-ended"}


async def test_a_run_whose_start_was_lost_between_two_writes_is_closed(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill = await sb.machine()
        async with mill.attached():
            lost, start = await sb.runs.start(ANA, machine="mill", **ORDER)
            kept, _ = await sb.runs.start(ANA, machine="mill", **ORDER)
            await sb.instructions.forget_runs(frozenset({lost.id}))
            clock.forward(timedelta(minutes=2))
            await sb.runs.close_unstarted()
            assert sb.projection.run(lost.id).state is RunState.REFUSED
            assert "start it again" in sb.projection.run(lost.id).reason
            assert sb.projection.run(kept.id).state is RunState.ORDERED
            assert start.run == lost.id


async def test_an_instruction_that_nobody_takes_lapses_and_closes_its_run(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill = await sb.machine()
        async with mill.attached():
            started, start = await sb.runs.start(ANA, machine="mill", **ORDER)
        clock.forward(timedelta(minutes=11))
        assert sb.instructions.pending(mill.id) == []
        await eventually(lambda: sb.projection.run(started.id).state is RunState.REFUSED)
        assert (await sb.instructions.get(start.id)).state == "lapsed"
        clock.forward(timedelta(days=2))
        await sb.instructions.trim()
        with pytest.raises(NotFound):
            await sb.instructions.get(start.id)


async def test_runs_that_ended_long_ago_are_forgotten_with_their_output(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill = await sb.machine()
        async with mill.attached(runs=[run("r-live"), run("r-old", "SUCCEEDED")]) as stream, mill.uploading() as up:
            await eventually(lambda: stream.acked == 1)
            await up.batch("r-old", 1, ["a"])
            await eventually(lambda: up.watermarks.get("r-old") == 2)
        await sb.runs.forget_ended(timedelta(days=7))
        assert sb.projection.run("r-old")
        clock.forward(timedelta(days=8))
        await sb.runs.forget_ended(timedelta(days=7))
        assert [r.id for r in await sb.store.runs.all()] == ["r-live"]
        assert (await sb.output.read("r-old", 1, 10))[0] == []


async def test_a_name_that_two_machines_share_must_be_an_id(store_url):
    async with core(store_url) as sb:
        mill, twin = await sb.machine("mill"), await sb.machine("mill")
        async with mill.attached(), twin.attached():
            with pytest.raises(Invalid, match="name one by its id"):
                await sb.runs.start(ANA, machine="mill", **ORDER)
            started, _ = await sb.runs.start(ANA, machine=twin.id, **ORDER)
            assert started.machine == twin.id
