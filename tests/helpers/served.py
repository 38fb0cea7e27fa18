"""A real `switchboard serve` as a process, its people, and machines that say what a test has them say."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.fleet import BareMachine
from helpers.ups import cli

from switchboard.rpc.server import Ports

PASSWORDS = {"ana": "ana's long password", "ben": "ben's long password", "kim": "kim's long password"}
ROLES = {"ben": "reviewer", "kim": "viewer"}


class Served:
    """ana is the admin, ben a reviewer, kim a viewer."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._ours, theirs = socket.socketpair()
        self._log = (data / "log").open("w+")
        listen = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--enroll", "127.0.0.1:0")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "switchboard", "serve", "--data", str(data), "--person", "ana"),
                *(*listen, "--parent-fd", str(theirs.fileno())),
            ],
            env={k: v for k, v in os.environ.items() if not k.startswith("SWITCHBOARD_")},
            pass_fds=(theirs.fileno(),),
            stdout=self._log,
            stderr=self._log,
        )
        theirs.close()
        self._lines = self._ours.makefile("rb")
        ready = self.ask("ready")
        self.url = ready["http"]
        self.ports = Ports(int(ready["grpc"].rpartition(":")[2]), int(ready["enroll"].rpartition(":")[2]))
        self._invite_everybody()

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Ask over the line that `up` would hold."""
        self._ours.sendall(json.dumps({"id": 1, "op": op, **arguments}).encode() + b"\n")
        line = self._lines.readline()
        assert line, f"the server has ended: {self.log()}"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer
        return answer

    def log(self) -> str:
        return (self.data / "log").read_text()

    def _invite_everybody(self) -> None:
        self._choose(self.ask("link")["link"], "ana")
        with httpx.Client(base_url=self.url + "/api/v1", auth=("ana", PASSWORDS["ana"])) as http:
            for name, role in ROLES.items():
                made = http.post("/people", json={"id": name, "role": role}).raise_for_status().json()
                self._choose(made["link"], name)

    def _choose(self, link: str, name: str) -> None:
        body = {"secret": link.partition("#")[2], "password": PASSWORDS[name]}
        httpx.post(self.url + "/api/v1/session/link", json=body).raise_for_status()

    def token(self, name: str = "ana") -> str:
        """A token that looks; what changes something on whatever machine is done by a person."""
        with httpx.Client(base_url=self.url + "/api/v1", auth=(name, PASSWORDS[name])) as http:
            body = {"name": "of a test", "permits": ["look"], "days": 1}
            return str(http.post("/tokens", json=body).raise_for_status().json()["token"])

    async def machine(self, name: str) -> BareMachine:
        machine = BareMachine(self.ports, name)
        await machine.enrol(self.ask("join", name=name)["token"])
        return machine

    async def cli(
        self, *words: str, by: str = "", token: str = "", input: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; *by* signs in with a password that comes on stdin before *input*."""
        env = {"SWITCHBOARD_URL": self.url}
        if by:
            words, input = (*words, "--as", by, "--password-stdin"), PASSWORDS[by] + "\n" + input
        else:
            env["SWITCHBOARD_TOKEN"] = token or self._ana
        return await asyncio.to_thread(cli, *words, input=input, env=env)

    @property
    def _ana(self) -> str:
        if not hasattr(self, "_token"):
            self._token = self.token()
        return self._token

    def end(self) -> None:
        self._lines.close()
        self._ours.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            raise
        finally:
            self._log.close()


@contextlib.contextmanager
def serving() -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="sbc-") as folder:
        running = Served(Path(folder))
        try:
            yield running
        finally:
            running.end()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as running:
        yield running


@pytest.fixture
def own() -> Iterator[Served]:
    """One for a test that leaves damage behind."""
    with serving() as running:
        yield running
