"""A real `switchboard up`, its terminal, and an observer of what it leaves behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.eventually import eventually
from helpers.processes import alive, is_dead
from helpers.terminal import Spoken

STARTS_WITHIN_S = 60


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on at this moment."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Up:
    """`switchboard up` in a folder of its own. Ends it, and waits until nothing of it is left, at the end of the block."""

    def __init__(
        self,
        data: Path,
        *options: str,
        terminal: bool = False,
        ports: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.data = data
        self._terminal = terminal
        http, grpc, enroll = free_ports(3)
        said = ("--http", f"127.0.0.1:{http}", "--grpc", f"127.0.0.1:{grpc}", "--enroll", f"127.0.0.1:{enroll}")
        self.argv = [sys.executable, "-m", "switchboard", "up", "--data", str(data), *(said if ports else ()), *options]
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("SWITCHBOARD_")}
        self.env |= {"HOME": str(data.parent), "XDG_DATA_HOME": str(data.parent), **(env or {})}
        self._spoken: Spoken

    async def __aenter__(self) -> "Up":
        self._spoken = Spoken(self.argv, self.env, terminal=self._terminal)
        return self

    async def __aexit__(self, *_: object) -> None:
        known = self.up_json() or {"pids": {}}
        self._spoken.close()
        await eventually(lambda: not self.left(), within=60, message=f"left behind: {known['pids']}")

    @property
    def said(self) -> str:
        return self._spoken.said

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        return self._spoken.process

    def type(self, text: str) -> None:
        self._spoken.type(text)

    def stop_reading(self) -> None:
        self._spoken.stop_reading()

    async def ended(self, within: float = 60) -> int:
        return await self._spoken.ended(within)

    def up_json(self) -> dict[str, Any] | None:
        try:
            known: dict[str, Any] = json.loads((self.data / "up.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        return known

    async def ready(self) -> dict[str, Any]:
        """Wait until it is up, and return its up.json."""

        def fact() -> Any:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.said}"
            return "Ctrl-C ends all of it." in self.said and self.up_json()

        known: dict[str, Any] = await eventually(fact, within=STARTS_WITHIN_S, message=f"up is not ready: {self.said}")
        return known

    def left(self) -> list[int]:
        """Return every process that still names this folder."""
        return [pid for pid in alive(str(self.data)) if pid != self.process.pid]

    def links(self) -> list[str]:
        return re.findall(r"https?://\S+/sign-in#\S+", self.said)

    async def kill(self, part: str) -> None:
        """kill -9 one part, and wait until it is gone."""
        known = await self.ready()
        pid = known["pids"][part]
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: is_dead(pid))


def cli(*words: str, input: str | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command and return what it said."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SWITCHBOARD_")} | (env or {})
    return subprocess.run(
        [sys.executable, "-m", "switchboard", *words],
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        env=clean,
        timeout=120,
        check=False,
        start_new_session=True,  # without the terminal on which the tests run
    )
