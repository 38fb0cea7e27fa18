"""What a run printed and changed: pages, a stream, the diff. Readers are checked, and the audit knows who read."""

import asyncio
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from switchboard.domain.errors import Forbidden
from switchboard.domain.output import Event
from switchboard.domain.people import Caller
from switchboard.domain.run import Run
from switchboard.web.access import V1
from switchboard.web.answers import Diff, plain, read
from switchboard.web.guard import Asks, Guarded
from switchboard.web.older import asked_of_its_machine
from switchboard.web.parts import Has
from switchboard.web.sse import EventStream, Viewer, resume_id

DIFF_S = 60.0
QUIET_S = 2.0  # in which the last output comes of a run that is gone, or whose daemon does not say how much there is

router = APIRouter(route_class=Guarded, tags=["output"])


@router.get(f"{V1}/runs/{{id}}/output")
async def output(
    id: str,
    request: Request,
    caller: Asks,
    has: Has,
    first: Annotated[int, Query(ge=1)] = 1,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> dict[str, Any]:
    """Events from seq `first` on, without a hole, `next` to ask for then until it is `end`, and `low`, the lowest in the store."""
    run = await _readable(request, has, caller, id)
    events, end, low = await has.output.read(id, first, limit, asked_of_its_machine(has, caller, run))
    next = events[-1].seq + 1 if events else first
    return {"events": [_row(event) for event in events], "next": next, "low": low, "end": end}


@router.get(f"{V1}/runs/{{id}}/output/stream")
async def stream(id: str, request: Request, caller: Asks, has: Has) -> Response:
    """Output as it comes; the id of each event is its seq, so Last-Event-ID resumes. `end` follows the last one."""
    run = await _readable(request, has, caller, id)
    resume = resume_id(request) or "0"
    after = int(resume) if resume.isdigit() else 0

    async def produce(viewer: Viewer) -> None:
        position, quiet_s = after, 0.0
        older = asked_of_its_machine(has, caller, run)
        async with aclosing(has.output.follow(id, after, older)) as batches:
            coming = asyncio.ensure_future(anext(batches))
            try:
                while True:
                    done, _ = await asyncio.wait({coming}, timeout=0.5)
                    if done:
                        events = coming.result()
                        await viewer.events([("output", _row(event), event.seq) for event in events])
                        position, quiet_s = max(position, events[-1].seq), 0.0
                        coming = asyncio.ensure_future(anext(batches))
                        continue
                    quiet_s += 0.5
                    if last_word := await _last_word(has, id, position + 1, quiet_s):
                        break
            except StopAsyncIteration:
                return  # the server closes: the viewer comes back
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
        await viewer.event("end", last_word, position)

    async def check() -> None:
        who = await request.app.state.guard.identify(request)
        run = has.projection.run(id)
        if run is not None and not has.runs.may_read(who.caller, run):
            raise Forbidden("you may no longer read this run")

    settings = request.app.state.settings
    return EventStream(produce, check=check, closing=request.app.state.closing, every_s=settings.heartbeat_s)


@router.get(f"{V1}/runs/{{id}}/diff")
async def diff(id: str, request: Request, caller: Asks, has: Has) -> Any:
    """What the checkout holds against the commit that the run started from, asked of its machine now."""
    run = await _readable(request, has, caller, id)
    answer = await has.queries.ask(run.machine, {"diff": {"run_id": id}}, DIFF_S, by=caller.person, run=id)
    return plain(read(Diff, answer).model_dump())


async def _readable(request: Request, has: Has, caller: Caller, id: str) -> Run:
    """Return the run, once it is on record that this caller reads it. Raises Forbidden for who may not."""
    run = has.runs.get(caller, id)
    if not has.runs.may_read(caller, run):
        raise Forbidden(f"the content of run {id} is for {run.owner or 'its owner'} and those who review or audit")
    await request.app.state.reads.note(caller, run)
    return run


async def _last_word(has: Has, id: str, next: int, quiet_s: float) -> dict[str, str]:
    """Return what a stream that has come to seq *next*, and was quiet so long, ends with; nothing while more may come."""
    run = has.projection.run(id)
    quiet = quiet_s >= QUIET_S
    if run is None:
        return {"state": "gone"} if quiet else {}
    if run.active:
        return {}
    said = {"state": run.state.value}
    if not run.output_next:
        _, end, _ = await has.output.read(id, next, 1)
        return said if quiet and next >= end else {}
    if next >= run.output_next:
        return said
    if quiet and not has.presence.attached(run.machine):
        machine = has.presence.machine(run.machine)
        name = machine.name if machine else run.machine
        missing = f"events {next} to {run.output_next - 1} are still on machine {name}, which is away"
        return said | {"missing": missing}
    return {}


def _row(event: Event) -> dict[str, Any]:
    # By hand: dataclasses.asdict would follow a stranger's detail as deep as it goes.
    return {
        "seq": event.seq,
        "at_ms": event.at_ms,
        "kind": event.kind,
        "text": event.text,
        "tool": event.tool,
        "block": event.block,
        "detail": plain(dict(event.detail)),
        "attempt": event.attempt,
    }
