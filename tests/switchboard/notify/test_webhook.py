"""The webhook tells that something waits, to a real HTTP server: never what, and never in anybody's way."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from helpers.eventually import eventually
from helpers.fleet import approval
from helpers.house import house
from helpers.valkey import ManualClock

from switchboard.domain.errors import Invalid
from switchboard.notify.webhook import Webhook, checked


@dataclass
class Ear:
    """A tiny HTTP server that answers with the statuses that it is told to, then with 200; to some never, and not before *hold*."""

    statuses: list[int] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    url: str = ""
    deaf_to: set[str] = field(default_factory=set)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        body = json.loads(await reader.readexactly(length))
        status = self.statuses.pop(0) if self.statuses else 200
        self.heard.append((status, body))
        await (self.over if body["approval"] in self.deaf_to else self.hold).wait()
        writer.write(
            f"HTTP/1.1 {status} x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()


@asynccontextmanager
async def ear(*statuses: int) -> AsyncIterator[Ear]:
    made = Ear(list(statuses))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    made.hold.set()
    async with server:
        yield made
        made.over.set()


async def test_it_says_what_waits_where_and_links_to_the_page_but_not_the_command(store_url: str):
    async with ear() as made, house(store_url, webhook=made.url) as home:
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1")
            await attached.told(approval=approval("a-1", "r-1", command="rm -rf /secret"))
            await attached.told(approval=approval("a-1", "r-1", command="rm -rf /secret", revision=2))
            await eventually(lambda: made.heard)
        base = home.web.base_url

    assert [body for _, body in made.heard] == [
        {
            "approval": "a-1",
            "run": "r-1",
            "repo": "example.org/mill",
            "title": "Bash waits for an answer",
            "link": f"{base}/a/a-1",
        }
    ]


async def test_it_tries_again_while_the_other_side_is_busy_and_not_after_a_clear_no(store_url: str):
    async with ear(503, 500, 200, 404, 302, 200) as made, house(store_url, webhook=made.url) as home:
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1")
            for n, heard in enumerate((3, 4, 5, 6)):
                await attached.told(approval=approval(f"a-{n}", "r-1"))
                await eventually(lambda heard=heard: len(made.heard) == heard)

    assert [(status, body["approval"]) for status, body in made.heard] == [
        (503, "a-0"),
        (500, "a-0"),
        (200, "a-0"),
        (404, "a-1"),
        (302, "a-2"),
        (200, "a-3"),
    ]


async def test_nobody_at_the_other_end_holds_nothing_up(store_url: str):
    async with house(store_url, webhook="http://127.0.0.1:9/nobody") as home:
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1")
            for n in range(20):
                await attached.told(approval=approval(f"a-{n}", "r-1"))
        assert len(home.services.approvals.open()) == 20


async def test_what_is_too_much_is_dropped_and_counted(store_url: str):
    made = Webhook("http://127.0.0.1:9/", base_url="http://127.0.0.1:7800")
    async with house(store_url) as home:
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1")
            await attached.told(approval=approval("a-1", "r-1"))
        waiting = home.services.approvals.get("a-1")
    for n in range(1500):
        await made.waiting(replace(waiting, id=f"a-{n}"))
        await made.waiting(replace(waiting, id="a-1"))  # is queued
    assert made.dropped == 500


async def test_one_that_goes_nowhere_holds_no_other_up(store_url: str):
    async with ear() as made, house(store_url, webhook=made.url) as home:
        made.deaf_to = {"a-0"}
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1")
            for n in range(5):
                await attached.told(approval=approval(f"a-{n}", "r-1"))
            await eventually(lambda: len(made.heard) == 5)
            await eventually(lambda: [a.id for a in home.services.approvals.open() if not a.told] == ["a-0"])


async def test_what_was_decided_meanwhile_is_not_told(store_url: str):
    async with ear(503) as made, house(store_url, webhook=made.url) as home:
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1")
            made.hold.clear()
            await attached.told(approval=approval("a-1", "r-1"))
            await eventually(lambda: made.heard)
            await attached.told(approval=approval("a-1", "r-1", "WITHDRAWN", 2))
            made.hold.set()
            await attached.told(approval=approval("a-2", "r-1"))
            await eventually(lambda: len(made.heard) == 2)

    assert [(status, body["approval"]) for status, body in made.heard] == [(503, "a-1"), (200, "a-2")]


async def test_what_a_server_that_died_left_untold_is_told_by_the_next_and_once(store_url: str):
    clock = ManualClock()
    async with house(store_url, clock=clock) as home:  # without a webhook, as one that died with its queue
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1")
            await attached.told(approval=approval("a-1", "r-1"))
            await attached.told(approval=approval("a-2", "r-1"))
            await attached.told(approval=approval("a-2", "r-1", "WITHDRAWN", 2))
    clock.forward(timedelta(minutes=1))
    async with ear() as made, house(store_url, clock=clock, webhook=made.url) as home:
        await eventually(lambda: [a.told for a in home.services.approvals.open()] == [True])
        await home.services.approvals.telling.tell_late()
        await home.services.approvals.telling.tell_late()

        assert [body["approval"] for _, body in made.heard] == ["a-1"]


def test_an_address_that_is_refused_is_not_said():
    with pytest.raises(Invalid) as refused:
        checked("http://hooks.example.org/T0/secret", allow_plain=False)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://hooks.example.org/x", "ftp://x", "javascript:alert(1)", "hooks.example.org", ""]
)
def test_an_address_that_is_not_encrypted_is_refused(url: str):
    with pytest.raises(Invalid, match="https://"):
        checked(url, allow_plain=False)


@pytest.mark.parametrize(
    "url", ["https://hooks.example.org/x", "http://127.0.0.1:1/", "http://localhost/", "http://[::1]:1/"]
)
def test_https_and_this_machine_itself_will_do(url: str):
    assert checked(url, allow_plain=False) == url
