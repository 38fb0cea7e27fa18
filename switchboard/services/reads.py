"""Who read whose run: on record once per person, run and hour, so that the audit tells it without drowning in it."""

from collections import OrderedDict

from switchboard.clock import Clock
from switchboard.domain.people import Caller
from switchboard.domain.run import Run
from switchboard.services.ports import AuditLog

KEPT = 20_000


class Reads:
    def __init__(self, audit: AuditLog, clock: Clock) -> None:
        self._audit, self._clock = audit, clock
        self._noted: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    async def note(self, caller: Caller, run: Run) -> None:
        """Raises Unavailable where it cannot be written down: content that is read unseen is not given."""
        key = (caller.person, run.id, f"{self._clock.now():%Y%m%d%H}")
        if key in self._noted:
            return
        await self._audit.append(by=caller.person, via=caller.via, action="run.read", subject=run.id)
        self._noted[key] = None
        while len(self._noted) > KEPT:
            self._noted.popitem(last=False)
