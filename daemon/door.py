"""The local socket through which this user's own commands reach a running daemon: status, stop and restart, nothing else.

It can end runs and never let one act: whoever of this user reaches it could send the same signals.
"""

import asyncio
import json
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

NAME = "daemon.sock"
ELSEWHERE = "daemon.sock.path"  # names the socket where the folder's own path is too long for one
LONGEST_PATH = 100  # of a unix socket's address
Serve = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class NoDaemon(Exception):
    """One sentence: nothing answers, and what to do."""


class Door:
    def __init__(self, home: Path, commands: Mapping[str, Serve]) -> None:
        self._home, self._path, self._commands = home, home / NAME, commands
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Door":
        if len(os.fsencode(self._path)) > LONGEST_PATH:
            self._path = Path(tempfile.mkdtemp(prefix="switchboard-")) / NAME  # 0700, as the home is
            (self._home / ELSEWHERE).write_text(str(self._path))
        self._path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=65_536)
        finally:
            os.umask(mask)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
            if self._path.parent != self._home:
                self._path.parent.rmdir()
                (self._home / ELSEWHERE).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _peer(writer.get_extra_info("socket")) == os.getuid():
                async with asyncio.timeout(10):
                    asked = json.loads(await reader.readline())
                command = self._commands.get(str(asked.get("command")))
                answer = await command(asked) if command else {"error": "there is no such command"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ValueError, AttributeError, OSError, TimeoutError):
            pass  # a caller that speaks nonsense or hangs up gets no answer
        finally:
            writer.close()


def call(home: Path, command: str, timeout_s: float, **said: Any) -> dict[str, Any]:
    """Ask the daemon of *home*; blocking. Raises NoDaemon."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(timeout_s)
            elsewhere = home / ELSEWHERE
            line.connect(elsewhere.read_text() if elsewhere.exists() else str(home / NAME))
            line.sendall(json.dumps({"command": command, **said}).encode() + b"\n")
            with line.makefile("rb") as answer:
                found = json.loads(answer.readline() or b"{}")
    except (OSError, ValueError) as error:
        raise NoDaemon(f"no daemon answers in {home} ({error}): start it with `switchboard-daemon run`") from error
    if not isinstance(found, dict) or not found:
        raise NoDaemon(f"the daemon in {home} hung up")
    return found


def _peer(line: socket.socket) -> int:
    if sys.platform == "linux":
        _, uid, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        return int(uid)
    return os.getuid()  # the folder is this user's alone
