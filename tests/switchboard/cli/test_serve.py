"""`switchboard serve`: on a terminal it greets its first person; what cannot be served with is one sentence."""

import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from helpers.terminal import Spoken
from helpers.tls import self_signed
from helpers.ups import Up, cli

ANYWHERE = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--enroll", "127.0.0.1:0")


@pytest.fixture
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sbs-") as folder:
        yield Path(folder) / "d"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


def serving(data: Path, *, terminal: bool) -> Spoken:
    env = {k: v for k, v in os.environ.items() if not k.startswith("SWITCHBOARD_")}
    return Spoken(
        [sys.executable, "-m", "switchboard", "serve", "--data", str(data), *ANYWHERE], env, terminal=terminal
    )


async def test_on_a_terminal_it_gives_the_first_person_a_link(data: Path) -> None:
    server = serving(data, terminal=True)
    await server.says("good once, for 15 minutes")
    [link] = re.findall(r"http://\S+/sign-in#\S+", server.said)
    url = link.partition("/sign-in")[0]
    assert f"switchboard serves {url}\n" in server.said
    chosen = cli("passwd", "--link", "--url", url, input=f"{link}\nan admin's long password\n")
    assert (chosen.returncode, chosen.stdout) == (0, "admin has a password now\n"), chosen.stderr
    server.type("\x03")
    assert await server.ended() == 0
    server.close()


async def test_elsewhere_it_gives_none(data: Path) -> None:
    server = serving(data, terminal=False)
    await server.says('"event": "serving"')
    server.process.send_signal(signal.SIGTERM)
    assert await server.ended() == 0
    assert "sign-in" not in server.said
    server.close()


def test_what_cannot_be_served_with_is_one_sentence(data: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = pair
    (tmp_path / "junk.pem").write_text("junk")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        for command in ("serve", "up"):
            for words, code, sentence in (
                (("--tls-cert", str(cert)), 2, "--tls-cert and --tls-key belong together"),
                (("--tls-cert", str(tmp_path / "none"), "--tls-key", str(key)), 2, "does not exist"),
                (("--tls-cert", str(tmp_path / "junk.pem"), "--tls-key", str(key)), 1, "cannot be served with"),
                (("--tls-cert", str(cert), "--tls-key", str(key.with_name("locked.pem"))), 1, "the key is encrypted"),
                (("--http", taken), 1, taken),
                (("--http", "203.0.113.7:7800"), 1, "203.0.113.7"),
                (("--http", "7800"), 2, "is not HOST:PORT"),
            ):
                done = cli(command, "--data", str(data), *words)
                assert (done.returncode, done.stdout) == (code, ""), (command, words, done.stderr)
                assert sentence in done.stderr, (command, words, done.stderr)
                assert "Traceback" not in done.stderr


async def test_over_tls_the_command_line_finds_its_server(data: Path, pair: tuple[Path, Path]) -> None:
    cert, key = pair
    async with Up(data, "--no-daemon", "--tls-cert", str(cert), "--tls-key", str(key)) as up:
        known = await up.ready()
        assert known["http"].startswith("https://127.0.0.1:")
        stranger = cli("runs", env={"SWITCHBOARD_DATA": str(data)})
        assert (stranger.returncode, stranger.stdout) == (3, "")
        assert "is not trusted here: name its CA's file in SSL_CERT_FILE" in stranger.stderr
        trusted = cli("runs", env={"SWITCHBOARD_DATA": str(data), "SSL_CERT_FILE": str(cert)})
        assert (trusted.returncode, trusted.stdout) == (0, "no runs\n"), trusted.stderr
        broken = cli("runs", env={"SWITCHBOARD_DATA": str(data), "SSL_CERT_FILE": str(data / "none")})
        assert (broken.returncode, "cannot be used" in broken.stderr) == (1, True)


async def test_it_answers_to_the_names_that_it_was_told_of_and_to_no_other(data: Path) -> None:
    async with Up(data, "--no-daemon", "--allowed-host", "pages.example", "--retention-days", "3") as up:
        known = await up.ready()
        answers = {
            host: httpx.get(known["http"], headers={"host": host}, trust_env=False).status_code
            for host in ("pages.example", "other.example")
        }
    assert answers == {"pages.example": 200, "other.example": 400}
    refused = cli("serve", "--data", str(data), "--retention-days", "0")
    assert (refused.returncode, "is not in the range" in refused.stderr) == (2, True)
