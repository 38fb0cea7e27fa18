"""What a daemon finds at its start: orders first, then the runs that were alive when the last one ended, and their remains."""

import asyncio
import json
from dataclasses import dataclass, replace

import structlog

from daemon.domain.approval import ApprovalState
from daemon.domain.facts import ApprovalRecord, InstructionRecord, InstructionState, RunRecord
from daemon.domain.instruction import Resume
from daemon.domain.orders import stop_sentence
from daemon.domain.run import LIVE, RunEvent, RunState
from daemon.process import Emptied
from daemon.runs import Runs
from daemon.tools import Tools

log = structlog.get_logger()

DIED = "the daemon stopped while it ran"
NOT_DONE = "the daemon stopped before this was done: ask again"
RESUMED = "resumed after the daemon's restart"
GO_ON = "You were interrupted because the daemon of this machine was restarted. Go on where you left off."
DRAINED = "drained"  # the key under which a planned restart leaves the runs to be taken up again
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
    drained: dict[str, bool] = json.loads(tools.journal.get(DRAINED) or "{}")
    again: list[Again] = []
    for run in was_alive:
        ended = _end(tools, run, remains[run.id])
        planned = drained.pop(run.id, None) is not None
        if ended.state is RunState.INTERRUPTED and (run.resume_after_crash or planned):
            again.append(Again(run.id, "" if run.state is RunState.IDLE else GO_ON))
    for record in tools.journal.unfinished_instructions():
        _close(tools, record)
    for run_id, in_a_turn in drained.items():
        known = tools.journal.run(run_id)
        if known is not None and known.state is RunState.INTERRUPTED:
            again.append(Again(run_id, GO_ON if in_a_turn else ""))
    return again


def take_up(runs: Runs, tools: Tools, again: list[Again]) -> None:
    """Resume *again*, each held against the orders on the disk first."""
    for each in again:
        runs.resume("", Resume(each.run, each.text), RESUMED)
    tools.journal.set(DRAINED, "{}")


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


def remember(tools: Tools, runs: Runs, *, in_a_turn: bool) -> None:
    """Write down what is alive, to be taken up again by the next daemon."""
    known: dict[str, bool] = json.loads(tools.journal.get(DRAINED) or "{}")
    alive = {attempt.record.id: in_a_turn for attempt in runs.alive()}
    tools.journal.set(DRAINED, json.dumps(known | alive))


async def finish_saving(tools: Tools) -> None:
    """Save the work of stopped runs that the last daemon did not come to save."""
    for order, run in tools.stops.unsaved():
        await tools.stops.save((order,), run)


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
    ended = tools.journal.put_run(ended)
    tools.stops.receipts([order.id for order in orders], ended, emptied)
    return ended


def _close(tools: Tools, record: InstructionRecord) -> None:
    """An instruction that was taken and has no outcome: what it did is on the disk, what it did not do is not begun now."""
    body = json.loads(record.json) if record.json else {}
    state, why = InstructionState.FAILED, NOT_DONE
    run = tools.journal.run(str(body.get("run", "")))
    if record.kind == "start" and run is not None and run.state is not RunState.REFUSED:
        state, why = InstructionState.APPLIED, ""
    elif record.kind == "start" and run is None:
        refused = RunRecord(
            id=str(body.get("run", "")),
            path=str(body.get("path", "")),
            agent=str(body.get("agent", "")),
            owner=str(body.get("owner", "")),
            state=RunState.REFUSED,
            reason="the daemon stopped before it could begin: start it again",
            started_boot_ms=tools.clock.boot_ms(),
            started_wall_ms=tools.clock.wall_ms(),
        )
        tools.journal.put_run(refused)
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
