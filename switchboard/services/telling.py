"""What the outside world is told: of each question that waits, at least once while it does, whichever server dies."""

from dataclasses import replace
from datetime import timedelta

from switchboard.clock import Clock
from switchboard.domain.approval import Approval, ApprovalState
from switchboard.services.book import Book
from switchboard.services.ports import Notifier

TOLD_WITHIN = timedelta(seconds=30)  # by the server to which a question came; after that by any


class Telling:
    def __init__(self, approvals: Book[Approval], clock: Clock, notifier: Notifier | None) -> None:
        self._approvals = approvals
        self._clock = clock
        self._notifier = notifier

    async def opened(self, approval: Approval) -> None:
        if self._notifier is not None:
            await self._notifier.waiting(approval)

    def untold(self, id: str) -> Approval | None:
        """Return a question that waits and of which nobody was told, as memory holds it."""
        found = self._approvals.peek(id)
        return found if found is not None and _untold(found) else None

    async def told(self, id: str) -> None:
        """Note that the outside world was told, so that no server tells it again."""
        await self._approvals.change(
            id, lambda found: None if found is None or found.told else replace(found, told=True)
        )

    async def tell_late(self) -> None:
        """Tell of what was not told in its time: its server died, or nobody listened."""
        late = self._clock.now() - TOLD_WITHIN
        for waiting in [a for a in self._approvals.all() if _untold(a) and a.opened_at <= late]:
            await self.opened(waiting)


def _untold(approval: Approval) -> bool:
    return approval.state is ApprovalState.OPEN and not approval.told
