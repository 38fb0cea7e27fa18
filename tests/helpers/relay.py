"""A wire that a test can hold still, cut and mend: a TCP relay before a server's port."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Relay:
    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self.address = ""
        self._flows = asyncio.Event()
        self._flows.set()
        self._up = True
        self._ends: set[asyncio.StreamWriter] = set()

    def hold(self) -> None:
        """Let nothing pass any more; both sides believe that the other is only silent."""
        self._flows.clear()

    def cut(self) -> None:
        """Break every connection, with all that was under way, and let none through until it is mended."""
        self._up = False
        for end in self._ends:
            end.transport.abort()

    def mend(self) -> None:
        self._up = True
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._up:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(self._host, int(self._port))
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, back}
        self._ends |= ends
        try:
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def relay(target: str) -> AsyncIterator[Relay]:
    """Relay a loopback port to *target* (host:port)."""
    made = Relay(target)
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        made.cut()
