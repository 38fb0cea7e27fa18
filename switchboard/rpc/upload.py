"""Output up, durable watermarks down, and the answers to questions. Each run's batches are stored in order, runs side by side."""

import asyncio
from collections.abc import AsyncIterator

from switchboard_rpc.v1 import fleet_pb2 as pb
from switchboard_rpc.v1 import run_pb2

from switchboard import faults
from switchboard.domain.errors import Conflict, SwitchboardError, Unavailable
from switchboard.rpc.access import Context
from switchboard.rpc.status import send
from switchboard.services.fleet import Fleet
from switchboard.services.identity import Presented
from switchboard.services.output import Output
from switchboard.services.queries import Queries
from switchboard.services.words import ident

BATCHES = 64  # of one machine that are stored at a time
MOST_EVENTS = 10_000  # in a batch
UNKNOWN_RUN_FOR = 10.0  # seconds that a batch waits for its run's announcement, which takes the other stream


class Uploads:
    def __init__(self, fleet: Fleet, output: Output, queries: Queries) -> None:
        self._fleet = fleet
        self._output = output
        self._queries = queries

    async def hold(self, presented: Presented, requests: AsyncIterator[pb.UploadRequest], context: Context) -> None:
        """Hold one daemon's upload open until it hangs up or may no longer take part."""
        machine = presented.machine
        async with self._fleet.guarded(presented) as guard:
            upload = _Upload(machine, self._fleet, self._output, self._queries)
            async with asyncio.TaskGroup() as tasks:
                parts = {
                    tasks.create_task(upload.listen(requests), name=f"output of {machine}"),
                    tasks.create_task(upload.speak(context), name=f"watermarks to {machine}"),
                    tasks.create_task(guard.hold(), name=f"standing of {machine}"),
                }
                await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                for part in parts:
                    part.cancel()


class _Upload:
    def __init__(self, machine: str, fleet: Fleet, output: Output, queries: Queries) -> None:
        self._machine = machine
        self._fleet = fleet
        self._output = output
        self._queries = queries
        self._last: dict[str, asyncio.Task[None]] = {}  # by run: what its next batch waits for
        self._watermarks: dict[str, int] = {}  # what is due to be told, newest only
        self._answered: list[str] = []
        self._due = asyncio.Event()

    async def listen(self, requests: AsyncIterator[pb.UploadRequest]) -> None:
        room = asyncio.Semaphore(BATCHES)
        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                match request.WhichOneof("kind"):
                    case "batch":
                        await room.acquire()
                        run = request.batch.run_id
                        before = self._last.get(run)
                        task = tasks.create_task(self._store(request.batch, before, room), name=f"batch of {run}")
                        self._last[run] = task
                        task.add_done_callback(lambda done, run=run: self._forget(run, done))  # type: ignore[misc]
                    case "answer":
                        await self._answer(request.answer)
                    case _:
                        pass  # of a younger daemon

    async def speak(self, context: Context) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            watermarks, self._watermarks = self._watermarks, {}
            answered, self._answered = self._answered, []
            for run, next in watermarks.items():
                await send(context, pb.UploadResponse(watermark=run_pb2.Watermark(run_id=run, next=next)))
            for id in answered:
                await send(context, pb.UploadResponse(answered=id))

    def _forget(self, run: str, done: "asyncio.Task[None]") -> None:
        if self._last.get(run) is done:
            del self._last[run]

    async def _store(
        self, batch: run_pb2.OutputBatch, before: "asyncio.Task[None] | None", room: asyncio.Semaphore
    ) -> None:
        try:
            if before is not None:
                await asyncio.wait({before})
            next = await self._appended(batch)
        except SwitchboardError as error:
            await self._fleet.refused(self._machine, "output", error)
            return
        finally:
            room.release()
        faults.point("rpc.batch.stored")
        self._watermarks[batch.run_id] = next
        self._due.set()

    async def _appended(self, batch: run_pb2.OutputBatch) -> int:
        """Store a batch for as long as the store takes. Raises Forbidden, Invalid, and Conflict for a run that stays unknown."""
        ident("run_id", batch.run_id)
        if not 1 <= batch.count <= MOST_EVENTS or batch.first < 1:
            raise Conflict(f"a batch of run {batch.run_id} claims {batch.count} events from {batch.first}")
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + UNKNOWN_RUN_FOR, 0.1
        while True:
            try:
                appended = await self._output.append(
                    self._machine, batch.run_id, batch.first, batch.count, batch.events
                )
                return appended.next
            except Unavailable:
                pass
            except Conflict:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _answer(self, answer: pb.Answer) -> None:
        try:
            id = ident("instruction_id", answer.instruction_id)
            whole = await self._queries.part(self._machine, id, answer.part, last=answer.last, error=answer.error)
        except SwitchboardError as error:
            await self._fleet.refused(self._machine, "answer", error)
            return
        if whole:
            self._answered.append(id)
            self._due.set()
