"""What a daemon finds at its start: orders first, then the runs that were alive when the last one ended, and their remains."""

import asyncio
import contextlib
import json
from dataclasses import dataclass, replace

import structlog

from daemon.disk import DiskFull
from daemon.domain.approval import ApprovalState
from daemon.domain.facts import ApprovalRecord, InstructionRecord, InstructionState, RunRecord
from daemon.domain.instruction import Resume
from daemon.domain.orders import stop_sentence
from daemon.domain.run import ENDED, LIVE, RunEvent, RunState
from daemon.process import Emptied
from daemon.runs import Runs
from daemon.tools import Tools

log = structlog.get_logger()

DIED = "the daemon stopped while it ran"
NOT_DONE = "the daemon stopped before this was done: ask again"
RESUMED = "resumed after the daemon's restart"
GO_ON = "You were interrupted because the daemon of this machine was restarted. Go on where you left off."
AGAIN = "again"  # the key of the runs that are to be taken up again, each with whether it was in a turn
CONTACT_S = 15.0  # for the first welcome, so that orders given meanwhile are obeyed before anything is taken up
SURVIVORS_S = 5.0


@dataclass(frozen=True, slots=True)
class Again:
    """A session to be taken up again, and what it is told first; nothing where it was idle."""

    run: str
    text: str = ""


async def recover(tools: Tools) -> list[Again]:
    """End what is left of the last daemon's runs, say what became of them, and return those to be resumed.

    The orders on the disk are obeyed before anything starts. Raises DiskFull.
    """
    was_alive = [run for run in tools.journal.runs() if run.state in LIVE]
    remains = await tools.processes.sweep(run.id for run in was_alive)
    tools.questions.close_old()
    planned = _planned(tools)
    crashed = [run for run in was_alive if run.resume_after_crash or run.id in planned]
    if crashed:  # written down before they are ended: a crash from here on must not forget them
        planned |= {run.id: run.state is not RunState.IDLE for run in crashed}
        tools.journal.set(AGAIN, json.dumps(planned))
    for run in was_alive:
        _end(tools, run, remains[run.id])
    for record in tools.journal.unfinished_instructions():
        _close(tools, record)
    for order, run in tools.stops.owed():
        if run.state is RunState.REFUSED:
            tools.stops.refuse({order: run.reason}, run)
        else:
            tools.stops.receipts([order], run, await tools.processes.end(run.id, grace_s=0, from_rung="kill"))
    for run in tools.journal.unacked_runs():
        if run.state in ENDED:
            tools.stops.ended(run)  # of an order that was given meanwhile the switchboard waits for its receipt
    interrupted = {run.id for run in tools.journal.runs() if run.state is RunState.INTERRUPTED}
    return [Again(run, GO_ON if in_a_turn else "") for run, in_a_turn in planned.items() if run in interrupted]


async def take_up(tools: Tools, runs: Runs, again: list[Again], obeyed: asyncio.Event) -> None:
    """Resume *again* when the switchboard's orders are *obeyed*, or after CONTACT_S without it under those on the disk.

    Until all are begun or refused they stay written down, for the next daemon.
    """
    if again:
        with contextlib.suppress(TimeoutError):  # a machine on its own goes on with what it knows
            async with asyncio.timeout(CONTACT_S):
                await obeyed.wait()
    if again and not runs.closed:
        await asyncio.wait([runs.resume("", Resume(each.run, each.text), RESUMED) for each in again])
    if _planned(tools) and not runs.closed:
        with contextlib.suppress(DiskFull):  # at worst the next daemon finds them begun
            tools.journal.set(AGAIN, "{}")


async def see_to_survivors(tools: Tools, runs: Runs) -> None:
    """Go on trying to end what the start could not, until all of it is gone."""
    while True:
        left = [run for run in tools.journal.runs() if run.state in LIVE and runs.of(run.id) is None]
        if not left:
            return
        for run in left:
            emptied = await tools.processes.end(run.id, grace_s=0, from_rung="kill")
            if not emptied.left:
                tools.reports.say(_end(tools, run, emptied))
        await asyncio.sleep(SURVIVORS_S)


def remember(tools: Tools, runs: Runs, *, now: bool = False) -> None:
    """Write down what is alive, to be taken up again by the next daemon: as at rest, or as it is *now*."""
    alive = {a.record.id: now and a.record.state is not RunState.IDLE for a in runs.alive()}
    tools.journal.set(AGAIN, json.dumps(_planned(tools) | alive))


def call_off(tools: Tools, why: str) -> None:
    """Have nothing taken up again; runs that were to go on say *why* they do not."""
    planned = _planned(tools)
    if not planned:
        return
    with contextlib.suppress(DiskFull):  # the daemon ends all the same
        tools.journal.set(AGAIN, "{}")
    for run in tools.journal.runs():
        if run.id in planned and run.state is RunState.INTERRUPTED:
            tools.reports.put_run(replace(run, reason=why))


async def finish_saving(tools: Tools) -> None:
    """Save the work of stopped runs that the last daemon did not come to save."""
    for orders, run in tools.stops.unsaved():
        await tools.stops.save(orders, run)


def _planned(tools: Tools) -> dict[str, bool]:
    """Return the runs to be taken up again, each with whether it was in a turn."""
    planned: dict[str, bool] = json.loads(tools.journal.get(AGAIN) or "{}")
    return planned


def _end(tools: Tools, run: RunRecord, emptied: Emptied) -> RunRecord:
    if emptied.left:
        # Not over, and not shown as over: the next start looks again.
        left = ", ".join(emptied.left)
        tools.reports.alarm("survivors", f"processes of run {run.id} survive: {left}", run.id)
        return tools.journal.put_run(replace(run, reason=f"still alive: {left}", waits_for=""))
    orders = tools.stops.after_crash(run)
    if orders or run.state is RunState.STOPPING:
        why = stop_sentence(orders[0]) if orders else run.reason
        stopping = run if run.state is RunState.STOPPING else run.take(RunEvent.STOP_ORDERED)
        ended = replace(stopping.take(RunEvent.TREE_EMPTY), reason=why, waits_for="")
    else:
        ended = replace(run.take(RunEvent.DAEMON_LOST), reason=DIED, waits_for="")
    # The receipts first, as at every end; what the last daemon proved before it died is the better proof.
    tools.stops.receipts([order.id for order in orders if not tools.stops.proven(order.id, run)], ended, emptied)
    return tools.journal.put_run(replace(ended, output_next=tools.outputs.next(run.id)))


def _close(tools: Tools, record: InstructionRecord) -> None:
    """An instruction that was taken and has no outcome: what it did is on the disk, what it did not do is not begun now."""
    body = json.loads(record.json) if record.json else {}
    state, why = InstructionState.FAILED, NOT_DONE
    run = tools.journal.run(str(body.get("run", "")))
    if record.kind == "start" and run is not None and run.state is not RunState.REFUSED:
        state, why = InstructionState.APPLIED, ""
    elif record.kind == "start" and run is None:
        overtook = {order: tools.stops.sentence(order) for order in body.get("stopped_by", ())}
        refused = RunRecord(
            id=str(body.get("run", "")),
            path=str(body.get("path", "")),
            agent=str(body.get("agent", "")),
            owner=str(body.get("owner", "")),
            state=RunState.REFUSED,
            reason=next(iter(overtook.values()), "the daemon stopped before it could begin: start it again"),
            started_boot_ms=tools.clock.boot_ms(),
            started_wall_ms=tools.clock.wall_ms(),
        )
        tools.journal.put_run(refused)
        tools.stops.refuse(overtook, refused)
    elif record.kind == "decision":
        asked = tools.journal.approval(str(body.get("approval", "")))
        if asked is not None and asked.decision_id == record.id:
            state, why = InstructionState.APPLIED, ""
        else:
            why = _gone(asked)
    tools.journal.finish_instruction(record.id, state, why)


def _gone(asked: ApprovalRecord | None) -> str:
    if asked is None:
        return "this machine holds no such question"
    return f"the question is {asked.state}: {asked.reason}" if asked.state is not ApprovalState.OPEN else NOT_DONE
