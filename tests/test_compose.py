"""docker-compose.yml, held against the real programs: its commands run here as they stand there, but for folders and ports."""

import asyncio
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.core import ParameterSource
from helpers.eventually import eventually
from helpers.tcp_valkey import answers, free_port
from helpers.tls import self_signed
from redis.asyncio import Redis

from switchboard.cli import cli
from switchboard.store.embedded import find_binary

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
STORE, SERVER = (COMPOSE["services"][name] for name in ("valkey", "switchboard"))
PASSWORD = "4f" * 24


def shell(service: dict[str, Any]) -> str:
    """Return the text that the service's shell is given, as the container engine hands it on."""
    program, flag, text = service["command"]
    assert (program, flag) in {("sh", "-c"), ("bash", "-c")}
    return str(text.replace("$$", "$"))


@asynccontextmanager
async def started(program: str, text: str, **env: str) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """Run *text* as an engine does. At the end the very process that was started hears SIGTERM, and ends well because of it."""
    whole = {"PATH": "/usr/bin:/bin", **env}
    with subprocess.Popen([program, "-c", text], env=whole, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        process.send_signal(signal.SIGTERM)
        try:
            assert await asyncio.to_thread(process.wait, 20) == 0
        finally:
            process.kill()


@asynccontextmanager
async def store(folder: Path) -> AsyncIterator[tuple[int, "subprocess.Popen[bytes]"]]:
    port = free_port()
    text = shell(STORE).replace("valkey-server -", f"{find_binary()} - --port {port} --dir {folder}", 1)
    async with started("sh", text, STORE_PASSWORD=PASSWORD) as process:
        await eventually(lambda: answers(port))
        yield port, process


async def test_the_store_asks_for_its_password_forgets_nothing_and_hears_a_stop(tmp_path: Path) -> None:
    async with store(tmp_path) as (port, process), Redis(port=port, password=PASSWORD) as link:
        found = {}
        for name in ("appendonly", "appendfsync", "save", "maxmemory-policy", "requirepass"):
            found |= await link.config_get(name)
        shown = Path(f"/proc/{process.pid}/cmdline").read_text()

    assert found == {
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "requirepass": PASSWORD,
    }
    assert PASSWORD not in shown
    assert (STORE["user"], STORE["volumes"]) == ("valkey", ["store:/data"])


@pytest.mark.parametrize(("said", "healthy"), [("PONG", True), ("NOAUTH Authentication required.", False), ("", False)])
def test_the_store_is_healthy_when_it_answers_not_when_it_complains(tmp_path: Path, said: str, healthy: bool) -> None:
    """valkey-cli ends with 0 either way."""
    client = tmp_path / "valkey-cli"
    client.write_text(f'#!/bin/sh\n[ "$REDISCLI_AUTH $*" = "pw ping" ] && echo "{said}"\nexit 0\n')
    client.chmod(0o700)
    kind, check = STORE["healthcheck"]["test"]
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "STORE_PASSWORD": "pw"}
    done = subprocess.run(["/bin/sh", "-c", check.replace("$$", "$")], env=env, check=False)

    assert kind == "CMD-SHELL"
    assert (done.returncode == 0) == healthy


def test_the_server_is_given_only_options_that_it_knows() -> None:
    *_, install, start = (shlex.split(step) for step in shell(SERVER).split("&&"))
    words = [str(ROOT / "README.md") if word.startswith("/tls/") else word for word in start]  # a file that is here
    serve, said = cli.commands["serve"], words[words.index("serve") + 1 :]
    with serve.make_context("serve", said) as context:
        by_hand = (n for n in context.params if context.get_parameter_source(n) is ParameterSource.COMMANDLINE)
        given = {name: context.params[name] for name in by_hand}
    from_env = {option.envvar for option in serve.params if isinstance(option, click.Option)}

    assert install[-2:] == ["-r", "requirements-server.lock"]
    assert {f"{given[name][1]}:{given[name][1]}" for name in ("http", "grpc", "enroll")} == set(SERVER["ports"])
    assert set(SERVER["environment"]) - {"SWITCHBOARD_NAME"} <= from_env
    assert f"data:{given['data']}" in SERVER["volumes"]
    assert set(COMPOSE["volumes"]) == {"store", "data", "venv"}


async def test_the_server_serves_from_that_store_is_found_healthy_and_hears_a_stop(tmp_path: Path) -> None:
    self_signed(tmp_path)
    ports = {str(number): str(free_port()) for number in (7800, 7801, 7802)}
    text = (
        shell(SERVER)
        .rpartition("&&")[2]
        .replace("/venv/bin/python", sys.executable)
        .replace("=/app:/app/", f"={ROOT}:{ROOT}/")
    )
    for here, there in {
        "/data": str(tmp_path / "data"),
        "/tls/fullchain.pem": str(tmp_path / "cert.pem"),
        "/tls/privkey.pem": str(tmp_path / "key.pem"),
        **{f"0.0.0.0:{port}": f"127.0.0.1:{free}" for port, free in ports.items()},
    }.items():
        assert here in text
        text = text.replace(here, there)
    kind, _, flag, check = SERVER["healthcheck"]["test"]
    command = [sys.executable, flag, check.replace(":7800/", f":{ports['7800']}/")]

    async def healthy() -> bool:
        done = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        return await done.wait() == 0

    (tmp_path / "store").mkdir()
    async with store(tmp_path / "store") as (port, _):
        url = SERVER["environment"]["SWITCHBOARD_REDIS_URL"].replace("${STORE_PASSWORD:?}", PASSWORD)
        url = url.replace("@valkey:6379", f"@127.0.0.1:{port}")
        assert not await healthy()
        async with started("bash", text, SWITCHBOARD_NAME="board.example", SWITCHBOARD_REDIS_URL=url):
            await eventually(healthy, within=60)
        async with Redis(port=port, password=PASSWORD) as link:
            assert await link.dbsize() > 0
    assert (kind, flag) == ("CMD", "-c")
