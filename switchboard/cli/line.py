"""The parent's end of the line to a server that `up` has started."""

import asyncio
import itertools
import json
import socket
from typing import Any

from switchboard.cli.errors import Failed


class Line:
    """Asks one thing after the other. Raises ConnectionError when the server is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._turn = asyncio.Lock()
        self._ids = itertools.count(1)

    @classmethod
    async def over(cls, end: socket.socket) -> "Line":
        return cls(*await asyncio.open_connection(sock=end))

    async def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer. Raises Failed with the server's sentence when it refuses."""
        async with self._turn:
            id = next(self._ids)
            self._writer.write(json.dumps({"id": id, "op": op, **arguments}).encode() + b"\n")
            await self._writer.drain()
            while line := await self._reader.readline():
                answer = json.loads(line)
                if answer.get("id") == id:
                    if "error" in answer:
                        raise Failed(str(answer["error"]))
                    return {key: value for key, value in answer.items() if key != "id"}
        raise ConnectionResetError("the server has hung up")

    def close(self) -> None:
        self._writer.close()
