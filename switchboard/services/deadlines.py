"""What happens because time has passed. Every timer of the server is a row here; nothing else sets one."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from switchboard.domain.errors import Unavailable
from switchboard.services.approvals import Approvals
from switchboard.services.fleet import Fleet
from switchboard.services.instructions import Instructions
from switchboard.services.ports import AuditLog
from switchboard.services.presence import Presence
from switchboard.services.projection import Projection
from switchboard.services.runs import Runs
from switchboard.services.stops import Stops

log = structlog.get_logger()

# A machine that is away closes its own questions by its own clock; ours waits this much longer before it does it for it.
EXPIRY_GRACE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Timer:
    name: str
    every: float  # seconds, give or take a tenth, so that replicas do not march in step
    act: Callable[[], Awaitable[object]]


class Deadlines:
    def __init__(
        self,
        *,
        fleet: Fleet,
        presence: Presence,
        instructions: Instructions,
        approvals: Approvals,
        stops: Stops,
        runs: Runs,
        projection: Projection,
        audit: AuditLog,
        retention: timedelta,
    ) -> None:
        self._presence = presence
        self._approvals = approvals
        self._stops = stops
        self._runs = runs
        self._projection = projection
        self._audit = audit
        self._retention = retention
        self._reviewed: set[tuple[str, datetime]] = set()
        self._timers = (
            Timer("the store's identity", 1, self._look_at_store),
            Timer("silent and barred machines", 1, fleet.tick),
            Timer("presence", 1, presence.flush),
            Timer("instructions that lapse", 1, instructions.lapse_due),
            Timer("approvals that expire", 10, self._expire),
            Timer("decisions to send again", 2, approvals.redeliver),
            Timer("questions that nobody was told of", 15, approvals.telling.tell_late),
            Timer("votes that are not in the audit", 10, approvals.note_votes),
            Timer("starts that were never sent", 30, runs.close_unstarted),
            Timer("orders on this replica's disk", 30, stops.reassert_journal),
            Timer("holds to look at again", 30, self._review),
            Timer("instructions that are settled", 600, instructions.trim),
            Timer("orders that are done with", 600, stops.settle_done),
            Timer("orders that were lifted long ago", 600, stops.forget_lifted),
            Timer("runs that ended long ago", 600, self._forget),
        )

    async def run(self) -> None:
        """Act on every timer, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for timer in self._timers:
                tasks.create_task(self._keep(timer), name=f"deadline: {timer.name}")

    async def _keep(self, timer: Timer) -> None:
        while True:
            try:
                await timer.act()
            except Exception as error:
                # The store is away, or one value would not do, or a bug: the next round tries again, the other timers go on.
                if not _only_unavailable(error):
                    log.error("a deadline could not be kept", timer=timer.name, exc_info=error)
            await asyncio.sleep(timer.every * random.uniform(0.9, 1.1))  # noqa: S311  jitter

    async def _look_at_store(self) -> None:
        if await self._stops.refresh():
            await self._projection.reread()

    async def _expire(self) -> None:
        away = frozenset(machine.id for machine in self._presence.machines() if not machine.attached)
        await self._approvals.expire_due(away, EXPIRY_GRACE)

    async def _review(self) -> None:
        for order in self._stops.orders():
            if self._stops.review_due(order) and (order.id, order.review_at) not in self._reviewed:
                self._reviewed.add((order.id, order.review_at))
                await self._audit.append(
                    by="switchboard",
                    via="system",
                    action="order.review-due",
                    subject=order.id,
                    reason=f"{order.by} is asked to extend or lift it",
                )

    async def _forget(self) -> None:
        await self._runs.forget_ended(self._retention)


def _only_unavailable(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only_unavailable(one) for one in error.exceptions)
    return isinstance(error, Unavailable)
