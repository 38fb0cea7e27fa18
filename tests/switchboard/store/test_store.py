"""The store as a whole: away and back, servers that will not do, fail-over, and `kill -9` at its boundaries."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from helpers.eventually import eventually
from helpers.tcp_valkey import tcp_valkey
from helpers.valkey import own_valkey

from switchboard.domain.errors import Invalid, Unavailable
from switchboard.domain.run import Run
from switchboard.store.lines import BATCH, LANES
from switchboard.store.redis import RedisStore, open_store

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def run(id: str = "r1", owner: str = "") -> Run:
    return Run(id=id, machine="mill", owner=owner, started_at=NOON, changed_at=NOON)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sbv-") as path:
        yield Path(path)


async def test_a_store_that_is_away_says_so_at_once_and_works_again_without_a_restart() -> None:
    async with own_valkey() as server, open_store(server.url) as store:
        await store.runs.change("r1", lambda _: run())
        for _ in range(2):
            await server.kill()
            answers = await asyncio.gather(
                store.runs.get("r1"),
                store.runs.change("r1", lambda _: run(owner="ana")),
                store.output.append("r1", 1, 1, b"x"),
                store.epochs.epoch(),
                store.epochs.next_generation(),
                return_exceptions=True,
            )
            assert {type(answer) for answer in answers} <= {Unavailable} | set(Unavailable.__subclasses__())
            assert all("the store is away" in str(answer) for answer in answers)
            await server.restart()
            assert await store.runs.get("r1") == run()


async def test_a_server_that_hangs_is_away_too() -> None:
    async with own_valkey() as server, open_store(server.url) as store:
        server.freeze()
        try:
            with pytest.raises(Unavailable, match="did not answer in time"):
                await store.output.append("r1", 1, 1, b"x")
            # More than can be under way: those that only waited are not kept waiting all the longer.
            many = await asyncio.gather(*(store.epochs.epoch() for _ in range(5_000)), return_exceptions=True)
            assert all(isinstance(answer, Unavailable) for answer in many)
        finally:
            server.thaw()
        await eventually(lambda: store.output.next("r1"))
        assert (await store.output.append("r1", await store.output.next("r1"), 1, b"x")).taken


async def test_more_callers_than_connections_wait_for_one(store: RedisStore) -> None:
    many = BATCH * LANES * 2
    await asyncio.gather(*(store.runs.change(f"r{n}", lambda _, n=n: run(f"r{n}")) for n in range(many)))

    assert len(await store.runs.ids()) == many


async def test_no_server_is_one_sentence(folder: Path) -> None:
    with pytest.raises(Unavailable, match=rf"the store is away: unix://{folder}/none\.sock"):
        async with open_store(f"{folder}/none.sock", patience=0.1):
            pass


async def test_every_acknowledged_record_survives_kill_9_in_the_middle_of_writing() -> None:
    async with own_valkey() as server, open_store(server.url) as store:

        async def write(id: str) -> int:
            done = 0
            try:
                while True:
                    revision = done + 1
                    await store.runs.change(id, lambda _, revision=revision: replace(run(id), revision=revision))
                    done = revision
            except Unavailable:
                return done

        for round in range(4):
            async with asyncio.TaskGroup() as tasks:
                writing = {id: tasks.create_task(write(id)) for id in (f"{round}-{n}" for n in range(8))}
                await asyncio.sleep(0.1)  # how far they get is left to chance
                await server.kill()
            await server.restart()
            found = {r.id: r.revision for r in await store.runs.all()}
            for id, task in writing.items():
                assert found.get(id, 0) - task.result() in (0, 1)  # the last may have landed and its answer been lost


async def test_a_reply_that_was_lost_is_not_a_second_write(folder: Path) -> None:
    """A proxy that cuts the link after the server has carried a save out, before its answer is through."""
    async with own_valkey() as server:
        proxy = Proxy(server.url.removeprefix("unix://"))
        async with (
            await asyncio.start_unix_server(proxy.serve, folder / "p.sock"),
            open_store(f"{folder}/p.sock") as store,
        ):
            await store.runs.change("r1", lambda _: run())
            asked: list[str] = []

            def decide(present: Run | None) -> Run:
                assert present is not None
                asked.append(present.owner)
                return replace(present, owner=present.owner + "x", revision=present.revision + 1)

            proxy.cut = b"switchboard_v1_record_save"
            saved = await store.runs.change("r1", decide)
            assert saved == replace(run(owner="x"), revision=1)
            assert asked == [""]

            proxy.cut = b"switchboard_v1_output_append"
            assert (await store.output.append("r1", 1, 2, b"x")).taken
            assert await store.output.next("r1") == 3

            proxy.cut = b"switchboard_v1_audit_append"
            await store.audit.append(by="ana", via="session", action="a.b", subject="s")
            assert len(await store.audit.read(None, 9)) == 1
            assert proxy.cuts == 3


class Proxy:
    """Passes bytes on; cuts a link once, after the answer to a command that holds *cut* has come from the server."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.cut = b""
        self.cuts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._path)
        cutting = asyncio.Event()

        async def up() -> None:
            while data := await reader.read(65536):
                if self.cut and self.cut in data:
                    self.cut = b""
                    cutting.set()
                up_writer.write(data)
            up_writer.close()

        async def down() -> None:
            while data := await up_reader.read(65536):
                if cutting.is_set():
                    self.cuts += 1
                    break
                writer.write(data)
            writer.close()

        await asyncio.gather(up(), down(), return_exceptions=True)
        up_writer.close()


async def test_counters_rise_and_never_fall_below_what_a_restored_order_carries(store: RedisStore) -> None:
    assert await store.epochs.generation() == 0
    numbers = await asyncio.gather(*(store.epochs.next_generation() for _ in range(50)))
    assert sorted(numbers) == list(range(1, 51))
    assert await store.epochs.next_generation(at_least=400) == 400
    assert await store.epochs.next_generation(at_least=3) == 401
    assert await store.epochs.generation() == 401


async def test_a_connection_number_is_higher_than_all_before_even_after_a_wipe(store: RedisStore) -> None:
    numbers = [await store.epochs.next_connection("mill") for _ in range(5)]
    assert numbers == sorted(set(numbers))
    await store.client.call("FLUSHALL", again=True)
    assert await store.epochs.next_connection("mill") > numbers[-1]


async def test_an_epoch_stays_until_the_store_is_lost(store: RedisStore) -> None:
    epochs = await asyncio.gather(*(store.epochs.epoch() for _ in range(20)))
    assert len(set(epochs)) == 1
    await store.client.call("FLUSHALL", again=True)
    assert await store.epochs.epoch() != epochs[0]


async def _old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As much of an old server as is asked before it is refused."""
    while data := await reader.read(4096):
        text = b"# Server\r\nredis_version:6.2.14\r\n"
        writer.write(b"$%d\r\n%s\r\n" % (len(text), text) if b"everything" in data else b"+OK\r\n" * data.count(b"*"))
    writer.close()


async def test_a_server_that_is_too_old_is_refused(folder: Path) -> None:
    async with await asyncio.start_unix_server(_old, folder / "old.sock"):
        with pytest.raises(Invalid, match=r"is Redis 6\.2\.14: the switchboard needs Redis 7\.2 or later"):
            async with open_store(f"{folder}/old.sock"):
                pass


async def test_a_server_that_lets_strangers_in_is_refused_off_loopback(folder: Path) -> None:
    async with tcp_valkey(folder, "--protected-mode", "no") as (port, _):
        # 0.0.0.0 is an address that is not said to be this machine, and that leads to it all the same.
        with pytest.raises(Invalid, match="lets anybody in: give it a password"):
            async with open_store(f"redis://0.0.0.0:{port}"):
                pass
        async with open_store(f"redis://127.0.0.1:{port}"):
            pass


async def test_a_server_with_a_password_is_taken_and_a_wrong_one_named(folder: Path) -> None:
    async with tcp_valkey(folder, "--requirepass", "s3cret") as (port, _):
        async with open_store(f"redis://:s3cret@0.0.0.0:{port}") as store:
            assert await store.epochs.epoch()
        with pytest.raises(Unavailable, match="refused the name or password: check --redis-url"):
            async with open_store(f"redis://:wrong@127.0.0.1:{port}", patience=0):
                pass


async def test_what_may_lose_data_is_warned_of(folder: Path) -> None:
    async with tcp_valkey(folder, "--maxmemory-policy", "allkeys-lru", "--appendonly", "no") as (port, _):
        with structlog.testing.capture_logs() as logs:
            async with open_store(f"redis://127.0.0.1:{port}"):
                pass
    assert [line["event"].split(":")[0] for line in logs] == [
        "the store may drop records when it is full",
        "the store keeps no append-only file, so a crash loses what it acknowledged",
    ]


async def test_a_full_store_refuses_and_says_why(folder: Path) -> None:
    async with tcp_valkey(folder, "--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as (port, _):  # noqa: SIM117
        async with open_store(f"redis://127.0.0.1:{port}") as store:
            with pytest.raises(Unavailable, match="maxmemory"):
                await _append_for_ever(store)
            next = await store.output.next("r")
            await store.output.purge("r")
            assert next > 1
            assert (await store.output.append("r", 1, 1, b"x")).taken


async def _append_for_ever(store: RedisStore) -> None:
    next = 1
    while True:
        next = (await store.output.append("r", next, 1, b"x" * 100_000)).next


async def test_a_replica_is_refused(folder: Path) -> None:
    async with (
        tcp_valkey(folder / "a") as (port, _),
        tcp_valkey(folder / "b", "--replicaof", f"127.0.0.1 {port}") as (other, _),
    ):
        with pytest.raises(Invalid, match="is a replica: name the primary"):
            async with open_store(f"redis://127.0.0.1:{other}"):
                pass


async def test_a_fail_over_by_sentinel_is_survived(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        first, primary = await stack.enter_async_context(tcp_valkey(folder / "a", "--repl-diskless-sync-delay", "0"))
        second, _ = await stack.enter_async_context(tcp_valkey(folder / "b", "--replicaof", f"127.0.0.1 {first}"))
        watch = (
            f"sentinel monitor team 127.0.0.1 {first} 1\nsentinel down-after-milliseconds team 500\n"
            "sentinel failover-timeout team 3000"
        )
        watcher, _ = await stack.enter_async_context(tcp_valkey(folder / "s", sentinel=watch))
        store = await stack.enter_async_context(open_store(f"redis+sentinel://127.0.0.1:{watcher}/team"))
        await store.runs.change("r1", lambda _: run(owner="ana"))
        await eventually(lambda: store.client.call("WAIT", 1, 100, again=True))
        # Sentinel learns of the replica from the primary, and can promote none before.
        await eventually(lambda: _told(watcher, ("SENTINEL", "REPLICAS", "team"), str(second)))
        primary.kill()

        async def back() -> bool:
            try:
                return await store.runs.change("r1", lambda _: run(owner="ben")) == run(owner="ben")
            except Unavailable:
                return False

        await eventually(back, within=30)
        async with open_store(f"redis://127.0.0.1:{second}") as seen:
            assert await seen.runs.get("r1") == run(owner="ben")


async def _told(port: int, command: tuple[str, ...], wanted: str) -> bool:
    from redis.asyncio import Redis

    link = Redis(port=port)
    link.response_callbacks.clear()
    try:
        return f":{wanted}'" in str(await link.execute_command(*command))
    finally:
        await link.aclose()


AT_A_POINT = """
import asyncio, sys
from datetime import UTC, datetime
from switchboard.domain.run import Run
from switchboard.store.redis import open_store

async def main():
    async with open_store(sys.argv[1]) as store:
        at = datetime(2026, 1, 1, 12, tzinfo=UTC)
        for n in range(1, 9):
            id = f"r{n}"
            await store.runs.change(id, lambda _: Run(id=id, machine="mill", started_at=at, changed_at=at))
            await store.output.append("out", n, 1, b"x")
            await store.audit.append(by="ana", via="session", action="a.b", subject=id)
            await store.publisher.settled()
            print(n, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("point", "runs", "events", "entries"),
    [
        ("store.record.saved", 3, 2, 2),
        ("store.output.appended", 3, 3, 2),
        ("store.audit.appended", 3, 3, 3),
        ("store.change.published", 3, None, None),
    ],
)
async def test_kill_9_at_its_boundaries_loses_nothing_that_was_acknowledged(
    store: RedisStore, store_url: str, point: str, runs: int, events: int | None, entries: int | None
) -> None:
    environment = {**os.environ, "SWITCHBOARD_FAULT": f"{point}:3"}
    command = [sys.executable, "-c", AT_A_POINT, store_url]
    died = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, check=False)

    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert died.stdout.split() == [b"1", b"2"]
    assert len(await store.runs.ids()) == runs
    assert await store.output.next("out") - 1 in ((2, 3) if events is None else (events,))
    assert len(await store.audit.read(None, 99)) in ((2, 3) if entries is None else (entries,))
    assert await store.audit.verify() is None
