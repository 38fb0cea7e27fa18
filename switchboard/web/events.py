"""Everything that changes, as it happens: one stream for a page or a script, resumable by Last-Event-ID."""

import asyncio
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from switchboard.domain.errors import Conflict
from switchboard.domain.people import Caller
from switchboard.web.access import V1
from switchboard.web.guard import Asks, Guarded
from switchboard.web.parts import Has, Shows
from switchboard.web.sse import EventStream, Viewer, resume_id
from switchboard.web.view import View

GATHER_S = 0.1  # changes of one thing within it become one event
AT_ONCE = frozenset({"approval", "receipt"})  # never wait for others
LATE_EVERY_S = 5.0
MOST = 500  # events in one write

router = APIRouter(route_class=Guarded, tags=["events"])


@router.get(f"{V1}/events")
async def events(request: Request, caller: Asks, has: Has, shows: Shows) -> Response:
    """`hello` or `reset`: take a snapshot; then every changed thing under its noun. `late` names machines that fell silent."""
    after = resume_id(request)

    async def produce(viewer: Viewer) -> None:
        stream = Changed(viewer, has, shows, caller)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stream.read(after), name="events: read")
            tasks.create_task(stream.write(), name="events: write")
            tasks.create_task(stream.late(), name="events: late")

    async def check() -> None:
        who = await request.app.state.guard.identify(request)
        stands = who.caller
        if (stands.permits, stands.solo) != (caller.permits, caller.solo):
            raise Conflict("your permissions have changed: come back")

    settings = request.app.state.settings
    return EventStream(produce, check=check, closing=request.app.state.closing, every_s=settings.heartbeat_s)


class Changed:
    """What one viewer has not been told yet: at most one entry for each thing, so a slow viewer gets the newest of each."""

    def __init__(self, viewer: Viewer, has: Has, shows: View, caller: Caller) -> None:
        self._viewer, self._has, self._shows, self._caller = viewer, has, shows, caller
        self._pending: dict[tuple[str, str], str] = {}
        self._some = asyncio.Event()
        self._urgent = asyncio.Event()
        self._shown: dict[str, dict[str, Any]] = {}  # machines as they were told: a mere sign of life is no news

    async def read(self, after: str | None) -> None:
        greeting = "hello" if after is None else ""
        while True:
            try:
                feed = self._has.projection.feed(after)
                async with aclosing(feed):
                    if greeting:
                        await self._viewer.event(greeting, {"epoch": self._has.projection.epoch})
                    async for id, noun, subject in feed:
                        self._pending.pop((noun, subject), None)
                        self._pending[noun, subject] = id
                        self._some.set()
                        if noun in AT_ONCE:
                            self._urgent.set()
                return
            except Conflict:
                after, greeting = None, "reset"

    async def write(self) -> None:
        while True:
            await self._some.wait()
            try:
                async with asyncio.timeout(GATHER_S):
                    await self._urgent.wait()
            except TimeoutError:
                pass  # nothing urgent: what came meanwhile goes together
            self._some.clear()
            self._urgent.clear()
            while self._pending:
                batch = list(self._pending.items())[:MOST]
                for key, _ in batch:
                    del self._pending[key]
                rows = [
                    (noun, row, id) for (noun, subject), id in batch if (row := self._row(noun, subject)) is not None
                ]
                if rows:
                    await self._viewer.events(rows)

    async def late(self) -> None:
        """Tell the ages of silent machines, and once that none is silent any more."""
        said: dict[str, float] = {}
        while True:
            now = self._has.clock.now()
            ages = {
                machine.id: round((now - machine.seen_at).total_seconds(), 1)
                for machine in self._has.presence.machines()
                if machine.seen_at is not None
                and (not machine.attached or (now - machine.seen_at).total_seconds() > 15)
            }
            if ages or said:
                await self._viewer.event("late", {"machines": ages})
            said = ages
            await asyncio.sleep(LATE_EVERY_S)

    def _row(self, noun: str, id: str) -> dict[str, Any] | None:
        row = self._shows.one(self._caller, noun, id)
        if row is None:
            return {"id": id, "gone": True}
        if noun == "machine":
            same = {k: v for k, v in row.items() if k not in {"seen_at", "seen_age_s"}}
            if self._shown.get(id) == same:
                return None
            self._shown[id] = same
        return row
