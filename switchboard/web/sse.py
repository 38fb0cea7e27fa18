"""Server-sent events as a plain coroutine: producers wait for their viewer, and all ends with the viewer or the server."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from switchboard.domain.errors import SwitchboardError

SLOWEST = 30.0  # seconds in which a viewer has to take what was sent, or it is cut off; it resumes by Last-Event-ID

Check = Callable[[], Awaitable[object]]


class Viewer:
    """One viewer's end: waits while the viewer is slow, so nothing piles up behind it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._turn = asyncio.Lock()

    async def event(self, name: str, data: Any, id: str | int | None = None) -> None:
        await self.events([(name, data, id)])

    async def events(self, many: Sequence[tuple[str, Any, str | int | None]]) -> None:
        await self._write(b"".join(_frame(name, data, id) for name, data, id in many))

    async def ping(self) -> None:
        await self._write(b": ping\n\n")

    async def _write(self, body: bytes) -> None:
        async with self._turn, asyncio.timeout(SLOWEST):
            await self._send({"type": "http.response.body", "body": body, "more_body": True})


class EventStream(Response):
    """Answers with what *produce* says, until it returns, the viewer goes, *check* raises, or the server closes."""

    media_type = "text/event-stream"

    def __init__(
        self, produce: Callable[[Viewer], Awaitable[None]], *, check: Check, closing: asyncio.Event, every_s: float
    ) -> None:
        super().__init__(headers={"x-accel-buffering": "no", "cache-control": "no-store"})
        del self.headers["content-length"]
        self._produce, self._check, self._closing, self._every_s = produce, check, closing, every_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        viewer = Viewer(send)
        parts = [self._produce(viewer), self._alive(viewer), self._closing.wait(), _gone(receive)]
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            await viewer.ping()  # the headers leave at once
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except (TimeoutError, OSError):
            pass  # the viewer is gone or too slow; it comes back with Last-Event-ID
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        for outcome in ended:
            # A refusal or a store that is away ends the stream: the viewer asks again, and that answer says which.
            if isinstance(outcome, Exception) and not isinstance(outcome, SwitchboardError | TimeoutError | OSError):
                raise outcome

    async def _alive(self, viewer: Viewer) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._check()
            await viewer.ping()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def resume_id(request: Request) -> str | None:
    """Return where a viewer was: the browser's header, or `after` in the address for who cannot set one."""
    return (request.headers.get("last-event-id") or request.query_params.get("after") or "")[:64] or None


def _frame(name: str, data: Any, id: str | int | None) -> bytes:
    head = f"event: {name}\n" if id is None else f"id: {id}\nevent: {name}\n"
    return head.encode() + b"data: " + orjson.dumps(data) + b"\n\n"
