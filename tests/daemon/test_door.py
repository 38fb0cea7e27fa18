"""The socket for this user's own commands: it answers them, and nobody and nothing else."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from daemon import door


async def answer(asked: dict[str, Any]) -> dict[str, Any]:
    return {"ok": True, "heard": asked.get("wait")}


@pytest.mark.parametrize("depth", [0, 4])
async def test_a_command_is_answered_from_a_socket_of_this_user_alone(tmp_path: Path, depth: int) -> None:
    home = tmp_path.joinpath(*["a-folder-with-quite-a-long-name"] * depth)
    home.mkdir(parents=True, exist_ok=True)
    async with door.Door(home, {"restart": answer}):
        assert await asyncio.to_thread(door.call, home, "restart", 5, wait=3) == {"ok": True, "heard": 3}
        assert "error" in await asyncio.to_thread(door.call, home, "vote", 5)
        place = home / door.ELSEWHERE
        path = Path(place.read_text()) if place.exists() else home / door.NAME
        assert place.exists() == (depth > 0)
        assert os.stat(path).st_mode & 0o777 == 0o600
    assert not path.exists()
    assert list(home.iterdir()) == [each for each in home.iterdir() if each.is_dir()]
    with pytest.raises(door.NoDaemon, match="start it with"):
        door.call(home, "status", 1)


@pytest.mark.parametrize("noise", [b"", b"\n", b"{", b"[]\n", b"null\n", b"x" * 100_000 + b"\n", b"\xff\n"])
async def test_nonsense_gets_no_answer_and_does_no_harm(tmp_path: Path, noise: bytes) -> None:
    async with door.Door(tmp_path, {"restart": answer}):

        def shout() -> bytes:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                line.connect(str(tmp_path / door.NAME))
                try:
                    line.sendall(noise)
                    line.shutdown(socket.SHUT_WR)
                    return line.recv(100)
                except OSError:
                    return b""

        assert await asyncio.to_thread(shout) == b""
        assert (await asyncio.to_thread(door.call, tmp_path, "restart", 5))["ok"]
