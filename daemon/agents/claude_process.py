"""The claude program as the SDK's transport: JSON lines over the pipes of whatever program launches it.

It is over when the program exits, never when its pipes close: an escapee may hold them open for ever.
"""

import asyncio
import contextlib
import json
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from claude_agent_sdk import Transport

from daemon.agents.driver import AgentGone, Json

CHUNK = 64 << 10
LINE_LIMIT = 64 << 20  # a single frame; what is longer is reported by its size and dropped
STDERR_LINES = 20
LAST_WORDS_S = 0.5  # how long the pipes may be quiet once the program has exited
DRAIN_S = 3.0  # and how long they may talk


class _Pipes(asyncio.SubprocessProtocol):
    """What asyncio tells of the program. Its own Process.wait() would wait for the pipes too."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.stdout = asyncio.StreamReader(CHUNK)
        self.stderr = asyncio.StreamReader(CHUNK)
        self.exited: asyncio.Future[int | None] = loop.create_future()
        self.writable = asyncio.Event()
        self.writable.set()
        self.closing = False
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport
        for fd, reader in ((1, self.stdout), (2, self.stderr)):
            pipe = transport.get_pipe_transport(fd)
            assert pipe is not None
            reader.set_transport(pipe)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        (self.stdout if fd == 1 else self.stderr).feed_data(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 0:
            self.writable.set()  # whoever waits to write is told by the next write
        else:
            (self.stdout if fd == 1 else self.stderr).feed_eof()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def process_exited(self) -> None:
        self.writable.set()
        if self._transport is not None and not self.exited.done():
            self.exited.set_result(self._transport.get_returncode())
            if self.closing:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None


class ClaudeProcess(Transport):
    """One running program. *take* gets every frame and says whether the SDK shall have it too; *over* is called once
    nothing more will come."""

    def __init__(
        self,
        argv: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        take: Callable[[Json], Awaitable[bool]],
        over: Callable[[], None],
    ) -> None:
        self._argv, self._cwd, self._env, self._take, self._over = list(argv), cwd, dict(env), take, over
        self._pipes: _Pipes | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._listening: asyncio.Task[None] | None = None
        self.errors: deque[str] = deque(maxlen=STDERR_LINES)
        self.reading = False

    async def connect(self) -> None:
        self._transport, self._pipes = await asyncio.get_running_loop().subprocess_exec(
            _Pipes,
            *self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._cwd,
            env=self._env,
        )
        self._listening = asyncio.create_task(self._listen(self._pipes), name="claude's stderr")

    @property
    def pid(self) -> int | None:
        return self._transport.get_pid() if self._transport is not None else None

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it lives."""
        return self._pipes.exited.result() if self._pipes is not None and self._pipes.exited.done() else None

    async def exited(self, within: float) -> bool:
        """Wait for the exit, whatever the pipes do."""
        if self._pipes is None:
            return True
        done, _ = await asyncio.wait({self._pipes.exited}, timeout=within)
        return bool(done)

    def is_ready(self) -> bool:
        return self._pipes is not None and not self._pipes.exited.done()

    async def write(self, data: str) -> None:
        pipes, transport = self._pipes, self._transport
        stdin = transport.get_pipe_transport(0) if transport is not None else None
        if pipes is None or not isinstance(stdin, asyncio.WriteTransport) or stdin.is_closing() or pipes.exited.done():
            raise AgentGone("claude is no longer there")
        stdin.write(data.encode("utf-8", "replace"))
        await pipes.writable.wait()

    async def end_input(self) -> None:
        stdin = self._transport.get_pipe_transport(0) if self._transport is not None else None
        if stdin is not None:
            stdin.close()

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        """Frames for the SDK; finishes with the program."""
        self.reading = True
        try:
            async for frame in self._frames():
                if await self._take(frame):
                    yield frame
            await self.exited(LAST_WORDS_S)  # a keeper stays for as long as something of the tree lives
            if self._listening is not None:
                await asyncio.wait({self._listening}, timeout=LAST_WORDS_S)
        finally:
            self._over()

    def terminate(self) -> None:
        if self._transport is not None and self.is_ready():
            with contextlib.suppress(ProcessLookupError):
                self._transport.terminate()

    async def close(self) -> None:
        """Let go of the pipes. A program that still lives is its keeper's to end: closing the whole transport would
        SIGKILL the keeper and leave its tree behind."""
        transport, listening = self._transport, self._listening
        if listening is not None:
            if not self.is_ready():
                await asyncio.wait({listening}, timeout=LAST_WORDS_S)
            listening.cancel()
            await asyncio.wait({listening})
        if transport is None or self._pipes is None:
            return
        self._pipes.closing = True
        if self._pipes.exited.done():
            transport.close()
            return
        for fd in (0, 1, 2):
            pipe = transport.get_pipe_transport(fd)
            if pipe is not None:
                pipe.close()

    async def _listen(self, pipes: _Pipes) -> None:
        tail = b""
        while chunk := await pipes.stderr.read(CHUNK):
            *lines, tail = (tail + chunk).split(b"\n")
            tail = tail[-CHUNK:]
            self.errors.extend(text for line in lines if (text := _text(line)))
        if text := _text(tail):
            self.errors.append(text)

    async def _frames(self) -> AsyncIterator[Json]:
        assert self._pipes is not None
        pipes, loop = self._pipes, asyncio.get_running_loop()
        line = bytearray()
        dropped = 0  # bytes of the line so far that was too long to keep
        give_up: float | None = None
        while True:
            chunk = await _read(pipes)
            if pipes.exited.done():
                give_up = give_up or loop.time() + DRAIN_S
            if not chunk or (give_up is not None and loop.time() > give_up):
                break
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                if dropped:
                    yield {"type": "too_long", "bytes": dropped + len(end)}
                else:
                    frame = parse(bytes(line + end))
                    if frame is not None:
                        yield frame
                line.clear()
                dropped = 0
            if dropped or len(line) + len(rest) > LINE_LIMIT:
                dropped += len(line) + len(rest)
                line.clear()
            else:
                line += rest
        frame = parse(bytes(line))
        if frame is not None and frame["type"] != "not_json":  # a last line cut short says nothing
            yield frame


async def _read(pipes: _Pipes) -> bytes:
    reading = asyncio.ensure_future(pipes.stdout.read(CHUNK))
    try:
        either: set[asyncio.Future[Any]] = {reading, pipes.exited}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            await asyncio.wait({reading}, timeout=LAST_WORDS_S)
        return reading.result() if reading.done() else b""
    finally:
        reading.cancel()


def parse(line: bytes) -> Json | None:
    """One line of the program's output as a frame, whatever it is; None for an empty one."""
    text = line.decode("utf-8", "replace").strip()
    if not text:
        return None
    try:
        frame = json.loads(text, parse_constant=str)  # NaN and Infinity are words: they have no place in JSON
        if "\\ud" in text.lower():  # half a surrogate pair can be neither stored nor sent
            frame = json.loads(json.dumps(frame, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {"type": "not_json", "text": text[:2000]}
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        return {"type": "not_a_frame", "frame": frame}
    return frame


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").strip()[:500]
