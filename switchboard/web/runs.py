"""Runs: list, start, talk to, stop, forget. What a run is doing is its machine's word."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from switchboard.domain.errors import Invalid
from switchboard.domain.instruction import Kind
from switchboard.domain.run import RunState
from switchboard.services.runs import RunFilter
from switchboard.web.access import V1
from switchboard.web.guard import Asks, Guarded
from switchboard.web.models import MaybeWhy, Message, Resume, StartRun, Why
from switchboard.web.parts import Has, Shows

router = APIRouter(route_class=Guarded, tags=["runs"])


@router.get(f"{V1}/runs")
async def runs(
    caller: Asks,
    has: Has,
    shows: Shows,
    repo: str | None = None,
    machine: str | None = None,
    owner: str | None = None,
    state: str | None = None,
    agent: str | None = None,
    all: bool = False,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    after: str | None = None,
) -> dict[str, Any]:
    """Active runs, newest first; with `all` ended ones too. `next` goes on where this page ends."""
    if state and state not in {s.value for s in RunState}:
        raise Invalid("state", f"there is no run state {state[:40]!r}: take one of {', '.join(RunState)}")
    wanted = RunFilter(
        repo=repo or None,
        machine=machine or None,
        owner=owner or None,
        state=state or None,
        agent=agent or None,
        all=all,
        limit=limit,
        after=after or None,
    )
    page = has.runs.rows(wanted)
    return {"runs": [shows.run_row(caller, row) for row in page.rows], "next": page.next}


@router.post(f"{V1}/runs", status_code=202)
async def start(body: StartRun, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    """Order a run; its machine has the last word, which the instruction and the run's state tell."""
    run, instruction = await has.runs.start(
        caller,
        machine=body.machine or None,
        path=body.path,
        agent=body.agent,
        mode=body.mode,
        scope=tuple(body.scope),
        prompt=body.prompt,
        resume_after_crash=body.resume_after_crash,
        request_id=body.request_id or None,
    )
    return {"run": shows.run(caller, run), "instruction": shows.instruction(instruction)}


@router.get(f"{V1}/runs/{{id}}")
async def run(id: str, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    found = has.runs.get(caller, id)
    questions = sorted((a for a in has.projection.approvals() if a.run == id), key=lambda a: (a.opened_at, a.id))
    told = [i for i in has.projection.instructions(found.machine) if i.run == id and i.kind is not Kind.QUERY]
    return {
        **shows.run(caller, found),
        "approvals": [shows.approval(caller, a) for a in questions],
        "instructions": [shows.instruction(i) for i in sorted(told, key=lambda i: (i.at, i.id))],
    }


@router.delete(f"{V1}/runs/{{id}}")
async def purge(id: str, body: Why, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    """Forget what the run said and did, here and on its machine; the audit keeps that it was, and why it is gone."""
    return {"run": shows.run(caller, await has.runs.purge(caller, id, body.reason))}


@router.post(f"{V1}/runs/{{id}}/messages", status_code=202)
async def message(id: str, body: Message, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    return {"instruction": shows.instruction(await has.runs.message(caller, id, body.text))}


@router.post(f"{V1}/runs/{{id}}/interrupt", status_code=202)
async def interrupt(id: str, body: MaybeWhy, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    """End the turn; the session stays and takes a message."""
    return {"instruction": shows.instruction(await has.runs.interrupt(caller, id, body.reason))}


@router.post(f"{V1}/runs/{{id}}/resume", status_code=202)
async def resume(id: str, body: Resume, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    return {"instruction": shows.instruction(await has.runs.resume(caller, id, body.text))}


@router.post(f"{V1}/runs/{{id}}/end", status_code=202)
async def end(id: str, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    """End an idle session in good order."""
    return {"instruction": shows.instruction(await has.runs.end(caller, id))}


@router.post(f"{V1}/runs/{{id}}/stop", status_code=201)
async def stop(id: str, body: Why, caller: Asks, has: Has, shows: Shows) -> dict[str, Any]:
    """Stop this run with all of its processes; the order's rows hold the proof."""
    return {"order": shows.order(await has.stops.stop_run(caller, id, body.reason))}
