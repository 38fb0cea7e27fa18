"""What flows while one looks: everything that changes, and a run's output; resumed, cut off, and ended with the server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from helpers.eventually import eventually
from helpers.fleet import approval, run
from helpers.house import House, house
from switchboard_rpc.v1 import fleet_pb2, run_pb2

from switchboard.domain.people import Permission, Role
from switchboard.web.access import V1

Seen = list[tuple[str, str, Any]]  # id, event, data


@asynccontextmanager
async def following(
    client: httpx.AsyncClient, path: str, **headers: str
) -> AsyncIterator[tuple[Seen, asyncio.Task[None]]]:
    """Collect what a stream says until the block ends; the task ends with the stream."""
    seen: Seen = []

    async def read() -> None:
        async with client.stream("GET", f"{V1}{path}", headers=headers, timeout=None) as answer:
            assert answer.status_code == 200, await answer.aread()
            frame: dict[str, str] = {}
            async for line in answer.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    frame[name] = value
                elif "data" in frame:
                    seen.append((frame.get("id", ""), frame["event"], json.loads(frame["data"])))
                    frame = {}
                else:
                    frame = {}

    task = asyncio.create_task(read(), name=f"following {path}")
    try:
        yield seen, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def named(seen: Seen, noun: str) -> list[Any]:
    return [data for _, event, data in seen if event == noun]


class TestEvents:
    async def test_every_change_arrives_under_its_noun_and_the_newest_of_each_thing(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        async with machine.attached() as attached, following(client, "/events") as (seen, _):
            await eventually(lambda: named(seen, "hello"))
            for revision in range(1, 30):
                await attached.send(run=run("r-1", revision=revision))
            await attached.told(approval=approval("a-1", "r-1"))
            await eventually(lambda: named(seen, "approval"))
            await eventually(lambda: any(row["revision"] == 29 for row in named(seen, "run")))

        assert len(named(seen, "run")) < 29
        assert named(seen, "run")[-1]["machine_name"] == "mill"

    async def test_whoever_was_cut_off_takes_it_up_where_it_was(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        async with machine.attached() as attached:
            async with following(client, "/events") as (seen, _):
                await eventually(lambda: named(seen, "hello"))
                await attached.run("r-1")
                await eventually(lambda: named(seen, "run"))
                last = next(id for id, event, _ in reversed(seen) if event == "run")
            await attached.run("r-2")
            await attached.run("r-3")
            async with following(client, "/events", **{"last-event-id": last}) as (seen, _):
                await eventually(lambda: {row["id"] for row in named(seen, "run")} == {"r-2", "r-3"})
                assert not named(seen, "hello")
            async with following(client, f"/events?after={last}") as (seen, _):
                await eventually(lambda: {row["id"] for row in named(seen, "run")} == {"r-2", "r-3"})

    async def test_a_place_that_is_no_longer_known_means_take_a_snapshot(self, home: House):
        client = await home.browser("ana")
        for place in ("0-1", "nonsense", "9" * 60):
            async with following(client, "/events", **{"last-event-id": place}) as (seen, _):
                await eventually(lambda: named(seen, "reset"))

    async def test_content_is_left_out_for_who_may_not_read_it(self, home: House):
        await home.admit("vic", Role.VIEWER)
        machine = await home.machine()
        client = await home.browser("vic")
        async with machine.attached() as attached, following(client, "/events") as (seen, _):
            await eventually(lambda: named(seen, "hello"))
            await attached.run("r-1", prompt="the secret plan")
            await attached.told(approval=approval("a-1", "r-1", command="make secret"))
            await eventually(lambda: named(seen, "approval"))
            await eventually(lambda: named(seen, "run"))

        assert "secret" not in json.dumps(seen)

    async def test_a_machine_that_falls_silent_is_named(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        async with machine.attached(), following(client, "/events") as (seen, _):
            await eventually(lambda: named(seen, "hello"))
        async with following(client, "/events") as (seen, _):
            await eventually(lambda: any(machine.id in data["machines"] for data in named(seen, "late")))

    async def test_whoever_is_shut_out_hears_no_more(self, store_url: str):
        async with house(store_url, heartbeat_s=0.1) as home:
            await home.admit("kim", Role.REVIEWER)
            async with following(await home.browser("kim"), "/events") as (seen, task):
                await eventually(lambda: named(seen, "hello"))
                await home.services.people.disable(await home.ana(), "kim")
                await asyncio.wait_for(task, 10)

    async def test_a_changed_role_ends_the_stream_so_that_it_is_looked_at_anew(self, store_url: str):
        async with house(store_url, heartbeat_s=0.1) as home:
            await home.admit("kim", Role.REVIEWER)
            async with following(await home.browser("kim"), "/events") as (seen, task):
                await eventually(lambda: named(seen, "hello"))
                await home.services.people.set_role(await home.ana(), "kim", Role.VIEWER)
                await asyncio.wait_for(task, 10)

    async def test_the_streams_end_when_the_server_closes(self, store_url: str):
        async with house(store_url) as home:
            client = await home.browser("ana")
            async with following(client, "/events") as (seen, task):
                await eventually(lambda: named(seen, "hello"))
                home.server.stop()
                await asyncio.wait_for(task, 10)

    async def test_a_hundred_viewers_who_leave_leave_nothing_behind(self, home: House):
        client = home.nobody(authorization=(await home.with_token("ana", {Permission.LOOK})).headers["authorization"])
        client._transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=200))
        before = len(asyncio.all_tasks())
        for _ in range(5):
            streams = [following(client, "/events") for _ in range(20)]
            opened = [await stream.__aenter__() for stream in streams]
            await eventually(lambda opened=opened: all(named(seen, "hello") for seen, _ in opened))
            for stream in streams:
                await stream.__aexit__(None, None, None)
        await client.aclose()
        await eventually(lambda: len(asyncio.all_tasks()) <= before + 5)
        assert len(home.services.projection._feeds) == 0


class TestOutput:
    async def test_output_comes_as_it_is_printed_and_ends_with_the_run(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        async with machine.attached() as attached, machine.uploading() as uploading:
            await attached.run("r-1")
            await uploading.batch("r-1", 1, ["one", "two"])
            async with following(client, "/runs/r-1/output/stream") as (seen, task):
                await eventually(lambda: len(named(seen, "output")) == 2)
                await uploading.batch("r-1", 3, ["three"])
                await eventually(lambda: len(named(seen, "output")) == 3)
                await attached.run("r-1", "SUCCEEDED", revision=2)
                await uploading.batch("r-1", 4, ["four"])  # travels on another stream than the end
                await asyncio.wait_for(task, 20)

        assert [(id, data["text"]) for id, event, data in seen if event == "output"] == [
            ("1", "one"),
            ("2", "two"),
            ("3", "three"),
            ("4", "four"),
        ]
        assert seen[-1][1:] == ("end", {"state": "succeeded"})

    async def test_it_does_not_end_before_all_that_the_machine_counted_is_there(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        async with machine.attached() as attached, machine.uploading() as uploading:
            await attached.run("r-1")
            await uploading.batch("r-1", 1, ["one"])
            await attached.run("r-1", "SUCCEEDED", revision=2, output_next=3)
            await attached.run("r-2", "SUCCEEDED")  # of a daemon that does not count: over after a while of silence
            async with following(client, "/runs/r-1/output/stream") as (seen, task):
                await eventually(lambda: named(seen, "output"))
                async with following(client, "/runs/r-2/output/stream") as (_, silent):
                    await asyncio.wait_for(silent, 20)
                assert not task.done()
                await uploading.batch("r-1", 2, ["two"])
                await asyncio.wait_for(task, 20)

        assert [data["text"] for data in named(seen, "output")] == ["one", "two"]
        assert seen[-1][1:] == ("end", {"state": "succeeded"})

    async def test_it_ends_with_what_is_missing_when_the_machine_that_has_it_is_away(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        async with machine.attached() as attached, machine.uploading() as uploading:
            await attached.run("r-1")
            await uploading.batch("r-1", 1, ["one"])
            await attached.run("r-1", "SUCCEEDED", revision=2, output_next=4)
            await eventually(lambda: uploading.watermarks.get("r-1") == 2)
        async with following(client, "/runs/r-1/output/stream") as (seen, task):
            await asyncio.wait_for(task, 20)

        missing = "events 2 to 3 are still on machine mill, which is away"
        assert seen[-1][1:] == ("end", {"state": "succeeded", "missing": missing})

    async def test_what_left_the_store_comes_from_the_machines_spool(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        held = [fleet_pb2.SpoolRange(run_id="r-1", low=1, next=4)]
        async with machine.attached(spool=held) as attached, machine.uploading() as uploading:
            await attached.run("r-1")
            await home.store.output.skip("r-1", 3)
            await uploading.batch("r-1", 3, ["three"])
            await eventually(lambda: uploading.watermarks.get("r-1") == 4)
            async with following(client, "/runs/r-1/output/stream") as (seen, _):
                await eventually(lambda: attached.instructions)
                older = [{"seq": n, "kind": "message", "text": text} for n, text in ((1, "one"), (2, "two"))]
                await uploading.answer(attached.instructions[0].id, {"events": older})
                await eventually(lambda: len(named(seen, "output")) == 3)

        assert [data["text"] for data in named(seen, "output")] == ["one", "two", "three"]

    async def test_it_is_taken_up_after_the_last_event_that_was_seen(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        async with machine.attached() as attached, machine.uploading() as uploading:
            await attached.run("r-1")
            await uploading.batch("r-1", 1, ["one", "two", "three"])
            await eventually(lambda: uploading.watermarks.get("r-1") == 4)
            async with following(client, "/runs/r-1/output/stream", **{"last-event-id": "2"}) as (seen, _):
                await eventually(lambda: named(seen, "output"))

        assert [data["text"] for data in named(seen, "output")] == ["three"]


async def test_no_detail_that_a_machine_can_send_breaks_the_page_or_the_stream(home: House):
    details = [
        '{"a": "\\ud800", "\\udfff": 1}',
        '{"a": NaN, "b": -Infinity}',
        '{"a": ' * 900 + "1" + "}" * 900,
        "[1]",
        "{",
        '{"a": 1e999}',
        '{"n": 123456789012345678901234567890}',
    ]
    events = [run_pb2.RunEvent(seq=n, kind=4, text="x", detail_json=detail) for n, detail in enumerate(details, 1)]
    machine = await home.machine()
    client = await home.browser("ana")
    async with machine.attached() as attached, machine.uploading() as uploading:
        await attached.run("r-1")
        batch = run_pb2.OutputBatch(
            run_id="r-1", first=1, count=len(events), events=run_pb2.RunEvents(events=events).SerializeToString()
        )
        await uploading.call.write(fleet_pb2.UploadRequest(batch=batch))
        async with following(client, "/runs/r-1/output/stream") as (seen, _):
            await eventually(lambda: len(named(seen, "output")) == len(details))
        page = await client.get(f"{V1}/runs/r-1/output")

    assert page.status_code == 200
    assert len(page.json()["events"]) == len(details)
