"""Figure (b): from a question at the daemon to its decision back at the daemon, by one who watches the live stream and posts a vote.

Everything is real: both journals' fsyncs, mutual TLS, the store, the web server, the session. The floor is one gRPC round trip
over a stream with the same TLS plus one fsynced write to the store.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import uvloop

from bench.figure import Figure
from bench.house import House, house, quiet
from daemon import settings as daemon_settings
from daemon.app import Daemon, put_together
from daemon.domain.agent import Question, QuestionKind
from daemon.domain.facts import RunRecord
from daemon.domain.run import RunState
from daemon.identity import Identity
from daemon.link import channels
from daemon.questions import Asking

ASKS, WARM, TARGET = 400, 50, 10.0
PAUSE_S = 0.02  # before each, of the floor as well: nobody asks in a loop, and a processor that slept is slower
RUN = "r-bench0000000"


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="swb") as folder:
        async with house(Path(folder, "server")) as built:
            home = Path(folder, "d")
            await built.enrol(home, "bench")
            signed_in = await built.core.services.people.use_link(
                (await built.core.services.people.first_link("ana")).partition("#")[2], "correct horse battery"
            )
            machine = await _part("asks", str(home))
            who = signed_in.cookie, signed_in.session.csrf, signed_in.page_secret
            reviewer = await _part("review", built.web.base_url, built.web.cookie, *who)
            assert reviewer.stdout is not None
            await reviewer.stdout.readline()
            said, _ = await machine.communicate(b"go\n")
            reviewer.terminate()
            await reviewer.wait()
            asks = sorted(json.loads(said.splitlines()[-1]))
            floor = sorted(await _floor(built, home))
    return [
        Figure(f"ask to decision at the daemon, {name}", at(asks, share), "ms", at(floor, share), TARGET)
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]


def at(values: list[float], share: float) -> float:
    return values[min(int(len(values) * share), len(values) - 1)]


async def _floor(built: House, home: Path) -> list[float]:
    async def echo(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        async for request in requests:
            await context.write(request)

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Floor", {"Echo": handler}),))
    pair = built.core.authority.server()
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([(pair.key, pair.certificate)], built.core.authority.ca_pem, True),
    )
    await server.start()
    process = await _part("trips", str(home), str(port))
    said, _ = await process.communicate()
    await server.stop(0.1)
    trips: list[float] = json.loads(said)
    writes: list[float] = []
    for _ in trips:
        await asyncio.sleep(PAUSE_S)
        began = time.perf_counter()
        await built.store.client.call("SET", "bench", b"x" * 600, again=True)
        writes.append((time.perf_counter() - began) * 1000)
    # Each of them at its own p50 and p99: sorted, the sums are of equals.
    return [trip + write for trip, write in zip(sorted(trips), sorted(writes), strict=True)]


async def _part(name: str, *args: str) -> asyncio.subprocess.Process:
    """Start one of the others in a process of its own, as they are in life."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.approval", name, *args,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
    )  # fmt: skip


async def _trips(home: Path, port: str) -> None:
    """Print the milliseconds of bare round trips, as JSON."""
    async with grpc.aio.secure_channel(
        f"127.0.0.1:{port}", channels.mutual(Identity(home)), options=channels.OPTIONS
    ) as channel:
        stream = channel.stream_stream("/bench.Floor/Echo")()
        took: list[float] = []
        for _ in range(ASKS + WARM):
            await asyncio.sleep(PAUSE_S)
            began = time.perf_counter()
            await stream.write(b"x" * 600)
            await stream.read()
            took.append((time.perf_counter() - began) * 1000)
        print(json.dumps(took[WARM:]))
        stream.cancel()


async def _asks(home: Path) -> None:
    """Print the milliseconds of ASKS questions, asked one after the other, as JSON, once a line on stdin says that one watches."""
    async with (
        put_together(daemon_settings.Settings(home=home)) as daemon,
        asyncio.TaskGroup() as tasks,
    ):
        link = tasks.create_task(daemon.control.run(), name="link")
        await daemon.control.attached.wait()
        run = daemon.tools.journal.put_run(RunRecord(id=RUN, state=RunState.RUNNING, repo="local/bench", owner="ana"))
        daemon.tools.reports.say(run)
        daemon.runs._attempts[RUN] = Standin(run)  # type: ignore[assignment]  # the agent is what is not measured
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps([await _ask(daemon, number) for number in range(ASKS + WARM)][WARM:]))
        daemon.tools.questions.gone(RUN)
        link.cancel()


async def _ask(daemon: Daemon, number: int) -> float:
    asking = Asking(run=RUN, attempt=1, cwd=str(daemon.settings.home), content="full", edits_input=True, why="to see")
    question = Question(QuestionKind.TOOL, "Bash", {"command": f"echo {number}"}, call=str(number))
    # What the one before still has to tell is told: a person decides one question, not the echo of another.
    while daemon.control.owed:
        await asyncio.sleep(0.005)
    await asyncio.sleep(PAUSE_S)
    began = time.perf_counter()
    answer = await daemon.tools.questions.ask(asking, question, opened=lambda _: None, settled=lambda _: None)
    took = time.perf_counter() - began
    assert answer.allow, answer
    return took * 1000


async def _review(url: str, cookie: str, secret: str, csrf: str, page: str) -> None:
    """Approve whatever opens, by one who watches the live stream; print a line when it is open."""
    headers = {"X-CSRF-Token": csrf, "X-Page-Secret": page, "Origin": url}
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(url, cookies={cookie: secret}, headers=headers, timeout=timeout) as session,
        session.get("/api/v1/events") as stream,
    ):
        kind, seen = "", set[str]()
        async for line in stream.content:
            if line.startswith(b"event: "):
                kind = line[7:].strip().decode()
                if kind == "hello":
                    print("watching", flush=True)
            elif kind == "approval" and line.startswith(b"data: "):
                it = json.loads(line[6:])
                if it.get("state") == "open" and it["id"] not in seen:
                    seen.add(it["id"])
                    vote = {"verdict": "approve", "digest": it["digest"], "note": ""}
                    async with session.post(f"/api/v1/approvals/{it['id']}/votes", json=vote) as answer:
                        if answer.status != 200:
                            raise AssertionError(await answer.text())


@dataclass(frozen=True, slots=True)
class Standin:
    """What the daemon asks of the attempt whose question it is."""

    record: RunRecord
    ending: bool = False

    def silent_ms(self) -> int:
        return 0


if __name__ == "__main__":
    quiet()
    part, *rest = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        match part:
            case "trips":
                asyncio.run(_trips(Path(rest[0]), rest[1]))
            case "asks":
                asyncio.run(_asks(Path(rest[0])))
            case "review":
                uvloop.run(_review(*rest))
