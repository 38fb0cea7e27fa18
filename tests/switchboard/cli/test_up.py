"""`switchboard up`: a real server, Valkey and daemon; what dies comes back, and at the end nothing is left."""

import json
import os
import resource
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from helpers.eventually import eventually
from helpers.processes import is_dead
from helpers.tcp_valkey import tcp_valkey
from helpers.ups import Up, cli
from redis.asyncio import Redis


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="sbu-") as folder:
        yield Path(folder) / "d"


async def test_up_starts_everything_and_ctrl_c_ends_all_of_it(data: Path) -> None:
    async with Up(data) as up:
        known = await up.ready()

        assert stat.S_IMODE((data / "up.json").stat().st_mode) == 0o600
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        assert set(known) == {"http", "grpc", "enroll", "machine", "person", "pids", "token"}
        assert all(not is_dead(pid) for pid in known["pids"].values())
        assert f"panel    {known['http']}" in up.said
        assert known["machine"] in up.said
        assert "claude" in up.said
        machines = json.loads(cli("machines", "--json", "--data", str(data)).stdout)["machines"]
        assert [(m["id"], m["attached"]) for m in machines] == [(known["machine"], True)]

        up.process.send_signal(signal.SIGINT)

        assert await up.ended() == 0
        assert up.left() == []
        assert not (data / "up.json").exists()


async def test_the_link_is_shown_on_a_terminal_only_and_written_nowhere(data: Path) -> None:
    async with Up(data, "--no-daemon") as up:
        await up.ready()
        assert up.links() == []
        assert "run this on a terminal" in up.said
        up.process.send_signal(signal.SIGTERM)
        assert await up.ended() == 0

    async with Up(data, "--no-daemon", terminal=True) as up:
        await up.ready()
        up.type("\n")
        await eventually(lambda: len(up.links()) == 2)
        first, second = (link.partition("#")[2] for link in up.links())
        assert first != second
        for file in filter(Path.is_file, data.rglob("*")):
            assert first.encode() not in file.read_bytes()
        up.type("\x03")
        assert await up.ended() == 0


@pytest.mark.parametrize("typed", [True, False], ids=["option", "environment"])
async def test_the_webhooks_secret_reaches_the_server_and_no_command_line_of_ours(data: Path, typed: bool) -> None:
    def up_with(address: str) -> Up:
        words, env = (("--webhook", address), {}) if typed else ((), {"SWITCHBOARD_WEBHOOK": address})
        return Up(data, "--no-daemon", *words, env=env)

    async with up_with("http://hooks.example.org/T0/secret") as up:
        assert await up.ended() == 1
        assert "the webhook at hooks.example.org is not encrypted" in up.said
        assert "secret" not in up.said
    async with up_with("https://hooks.example.org/T0/secret") as up:
        server = psutil.Process((await up.ready())["pids"]["switchboard"])
        assert [word for word in server.cmdline() if "secret" in word] == []


async def test_the_link_signs_in_once(data: Path) -> None:
    async with Up(data, "--no-daemon", terminal=True) as up:
        known = await up.ready()
        body = {"secret": up.links()[0].partition("#")[2], "password": "correct horse battery"}
        first = httpx.post(known["http"] + "/api/v1/session/link", json=body)
        second = httpx.post(known["http"] + "/api/v1/session/link", json=body)

        assert (first.status_code, second.status_code) == (200, 401)
        assert first.json()["person"] == known["person"]
        named = ("--data", str(data), "--password-stdin", "--json")
        assert json.loads(cli("people", "list", *named, input="correct horse battery\n").stdout)["people"]


async def test_no_secret_stands_on_a_command_line(data: Path) -> None:
    async with Up(data) as up:
        known = await up.ready()
        for pid in [*known["pids"].values(), *up.left()]:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert known["token"].encode() not in line
            assert b"sbj_" not in line
            assert b"sbt_" not in line
        daemon = Path(f"/proc/{known['pids']['daemon']}/environ").read_bytes()
        assert b"SWITCHBOARD_REDIS_URL" not in daemon


@pytest.mark.parametrize("part", ["switchboard", "daemon", "valkey"])
async def test_a_part_that_is_killed_comes_back(data: Path, part: str) -> None:
    async with Up(data) as up:
        before = await up.ready()
        await up.kill(part)

        def back() -> bool:
            found = cli("machines", "--json", "--data", str(data))
            machines = json.loads(found.stdout)["machines"] if found.returncode == 0 else []
            now = up.up_json()
            return bool(now and not is_dead(now["pids"]["switchboard"]) and not is_dead(now["pids"]["daemon"])) and [
                (m["id"], m["attached"]) for m in machines
            ] == [(before["machine"], True)]

        await eventually(back, within=60, message=f"{part} did not come back")
        if part != "valkey":  # which its server brings back
            assert f"the {part} was killed by signal 9; starting it again" in up.said
            assert (up.up_json() or {})["pids"][part] != before["pids"][part]


async def test_after_kill_9_everything_goes_on_with_the_same_data_and_no_orphan(data: Path) -> None:
    async with Up(data, ports=False) as up:
        before = await up.ready()
        up.process.kill()
    assert up.left() == []

    async with Up(data, ports=False) as up:
        after = await up.ready()
        for name in ("machine", "person", "http", "grpc", "enroll"):
            assert after[name] == before[name]


async def test_a_daemon_finds_its_server_on_other_ports(data: Path) -> None:
    async with Up(data) as up:
        before = await up.ready()
        up.process.send_signal(signal.SIGINT)
        await up.ended()
    async with Up(data) as up:
        after = await up.ready()
        assert after["grpc"] != before["grpc"]
        assert after["machine"] == before["machine"]


async def test_only_one_up_per_folder(data: Path) -> None:
    async with Up(data, "--no-daemon") as first:
        await first.ready()
        second = cli("up", "--data", str(data))
        assert second.returncode == 1
        assert second.stderr.startswith(f"switchboard: another `switchboard up` (pid {first.process.pid})")
        assert second.stderr.count("\n") == 1
        assert first.process.poll() is None


async def test_a_port_that_was_said_and_is_taken_ends_with_a_sentence(data: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        async with Up(data, "--grpc", taken) as up:
            assert await up.ended() == 1
    assert up.said == f"switchboard: {taken} is taken by another program: end it, or say another --grpc\n"


async def test_a_server_that_cannot_start_ends_with_its_sentence(data: Path) -> None:
    async with Up(data, "--redis-url", "http://nowhere") as up:
        assert await up.ended() == 1
    assert "no address of a store" in up.said
    assert "Traceback" not in up.said


async def test_a_store_of_ones_own_is_used_and_no_other_is_started(data: Path) -> None:
    async with tcp_valkey(data.parent / "valkey") as (port, _):
        async with Up(data, "--no-daemon", "--redis-url", f"redis://127.0.0.1:{port}/0") as up:
            known = await up.ready()
            assert known["pids"]["valkey"] is None
            assert cli("runs", "--data", str(data)).stdout == "no runs\n"
            async with Redis(port=port) as store:
                assert await store.dbsize() > 0
        async with Up(data, "--no-daemon", env={"SWITCHBOARD_REDIS_URL": f"redis://127.0.0.1:{port}/0"}) as up:
            assert (await up.ready())["person"] == known["person"]


async def test_a_disk_that_takes_nothing_costs_notes_and_ends_nothing(data: Path) -> None:
    async with Up(data) as up:
        before = await up.ready()
        _, most = resource.prlimit(up.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(up.process.pid, resource.RLIMIT_FSIZE, (0, most))
        os.kill(before["pids"]["daemon"], signal.SIGKILL)
        for name in ("parts.json", "up.json"):
            sentence = f"{data.resolve() / name} cannot be written (File too large): everything else goes on"
            await eventually(lambda sentence=sentence: sentence in up.said, within=60, message=sentence)
        assert up.up_json() == before
        resource.prlimit(up.process.pid, resource.RLIMIT_FSIZE, (most, most))

        def back() -> bool:
            now = up.up_json() or before
            parts = json.loads((data / "parts.json").read_text())
            return parts["daemon"][0] == now["pids"]["daemon"] != before["pids"]["daemon"] and not is_dead(
                now["pids"]["daemon"]
            )

        await eventually(back, within=60)
        assert up.process.poll() is None


async def test_without_a_daemon_the_token_may_only_look(data: Path) -> None:
    async with Up(data, "--no-daemon") as up:
        known = await up.ready()
        assert known["machine"] == ""
        assert cli("runs", "--data", str(data)).returncode == 0
        refused = cli("stop", "order", "--all", "--reason", "no", "--data", str(data))
        assert refused.returncode == 1
        assert "may not" in refused.stderr


async def test_a_second_ctrl_c_ends_it_at_once(data: Path) -> None:
    async with Up(data, "--no-daemon") as up:
        known = await up.ready()
        os.kill(known["pids"]["switchboard"], signal.SIGSTOP)  # so that it cannot end in good order
        up.process.send_signal(signal.SIGINT)
        await eventually(lambda: "again: at once" in up.said)
        up.process.send_signal(signal.SIGINT)
        assert await up.ended() == 0
        await eventually(lambda: is_dead(known["pids"]["switchboard"]))


async def test_it_goes_on_when_nobody_reads_what_it_says(data: Path) -> None:
    async with Up(data, "--no-daemon") as up:
        known = await up.ready()
        up.stop_reading()
        os.kill(known["pids"]["switchboard"], signal.SIGKILL)
        await eventually(
            lambda: (up.up_json() or known)["pids"]["switchboard"] != known["pids"]["switchboard"], within=60
        )
        up.process.send_signal(signal.SIGTERM)
        await eventually(lambda: up.process.poll() is not None, within=60)
        assert up.left() == []


async def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with Up(tmp_path / "file" / "d") as up:
        assert await up.ended() == 1
    assert "cannot be made: Not a directory" in up.said
