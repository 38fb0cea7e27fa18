"""Output that the store no longer holds, asked of the spool of the machine that it came from."""

import structlog

from switchboard.domain.errors import SwitchboardError
from switchboard.domain.output import Event
from switchboard.domain.people import Caller
from switchboard.domain.run import Run
from switchboard.services.output import Older, gap
from switchboard.web.answers import OlderOutput, plain, read
from switchboard.web.parts import Services

SPOOL_S = 10.0  # that a machine gets to answer

log = structlog.get_logger("web")


def asked_of_its_machine(has: Services, caller: Caller, run: Run) -> Older:
    """Return what asks *run*'s machine in the name of *caller*; a gap says why something cannot be had."""

    async def older(first: int, below: int) -> list[Event]:
        query = {"output": {"run_id": run.id, "first": first, "count": below - first}}
        try:
            answer = await has.queries.ask(run.machine, query, SPOOL_S, by=caller.person, run=run.id)
            return _in_order(read(OlderOutput, answer), first, below)
        except SwitchboardError as error:
            log.info("old output cannot be had", run=run.id, error=str(error))
            return [gap(first, below, f"left the store and cannot be had from the machine: {error}")]

    return older


def _in_order(answer: OlderOutput, first: int, below: int) -> list[Event]:
    """Return what was asked for, each seq once, up to the first hole: a machine's word, and it answers a part at a time."""
    said = {event.seq: event for event in answer.events if first <= event.seq < below}
    low = min(said, default=below)
    events = [gap(first, low, "are held neither here nor on their machine")] if low > first else []
    while low in said:
        events.append(Event(**plain(said[low].model_dump())))
        low += 1
    return events
