"""What a run printed and changed: pages, a stream, the diff. Readers are checked, and the audit knows who read."""

import asyncio
from contextlib import aclosing
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from switchboard.domain.errors import Forbidden, SwitchboardError
from switchboard.domain.output import Event
from switchboard.domain.people import Caller
from switchboard.domain.run import Run
from switchboard.web.access import V1
from switchboard.web.answers import Diff, OlderOutput, plain, read
from switchboard.web.guard import Asks, Guarded
from switchboard.web.parts import Has
from switchboard.web.sse import EventStream, Viewer, resume_id

SPOOL_S = 10.0  # that a machine gets to send what the store no longer holds
DIFF_S = 60.0
QUIET_S = 2.0  # an ended run's last output travels on another stream than its end

log = structlog.get_logger("web")
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
    """Events from seq `first` on, `next` to ask for then, and `low`, the lowest that the store still holds."""
    run = await _readable(request, has, caller, id)
    events, next, low = await has.output.read(id, first, limit)
    rows = [_row(event) for event in events]
    if first < low:
        older = await _from_spool(has, caller, run, first, min(limit, low - first))
        rows = [*older, *rows][:limit]
    return {"events": rows, "next": rows[-1]["seq"] + 1 if rows else max(first, next), "low": low, "end": next}


@router.get(f"{V1}/runs/{{id}}/output/stream")
async def stream(id: str, request: Request, caller: Asks, has: Has) -> Response:
    """Output as it comes; the id of each event is its seq, so Last-Event-ID resumes. `end` follows the last one."""
    await _readable(request, has, caller, id)
    resume = resume_id(request) or "0"
    after = int(resume) if resume.isdigit() else 0

    async def produce(viewer: Viewer) -> None:
        position, quiet = after, 0.0
        async with aclosing(has.output.follow_batches(id, after)) as batches:
            coming = asyncio.ensure_future(anext(batches))
            try:
                while True:
                    done, _ = await asyncio.wait({coming}, timeout=0.5)
                    if done:
                        events = coming.result()
                        await viewer.events([("output", _row(event), event.seq) for event in events])
                        position, quiet = max(position, events[-1].seq), 0.0
                        coming = asyncio.ensure_future(anext(batches))
                        continue
                    quiet += 0.5
                    run = has.projection.run(id)
                    if quiet >= QUIET_S and (run is None or not run.active):
                        _, next, _ = await has.output.read(id, position + 1, 1)
                        if position + 1 >= next:
                            break
            except StopAsyncIteration:
                return  # the server closes: the viewer comes back
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
        await viewer.event("end", {"state": run.state.value if run else "gone"}, position)

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


async def _from_spool(has: Has, caller: Caller, run: Run, first: int, count: int) -> list[dict[str, Any]]:
    """Ask the machine for what left the store; a gap says why where it cannot be had."""
    try:
        query = {"output": {"run_id": run.id, "first": first, "count": count}}
        answer = await has.queries.ask(run.machine, query, SPOOL_S, by=caller.person, run=run.id)
        # A machine's word: only what was asked for is taken, in order, each seq once.
        said = {e.seq: e for e in read(OlderOutput, answer).events if first <= e.seq < first + count}
        return [plain(said[seq].model_dump()) for seq in sorted(said)]
    except SwitchboardError as error:
        log.info("old output cannot be had", run=run.id, error=str(error))
        last = first + count - 1
        text = f"events {first} to {last} left the store and cannot be had from the machine: {error}"
        return [_row(Event(seq=last, at_ms=0, kind="gap", text=text))]


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
