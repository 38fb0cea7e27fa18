"""What keeps a machine's streams honest while they are open: mutual TLS looks at a certificate only once, at the handshake."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from switchboard.domain.errors import SwitchboardError
from switchboard.services.identity import Presented

EXPIRY_GRACE = 60.0  # seconds; a daemon that can renew has done so hours before


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate as one stream has shown it."""

    presented: Presented
    expires_at: float  # by the loop's clock, so that a server clock which jumps cuts nobody off

    @classmethod
    def now(cls, presented: Presented, now: datetime) -> "Shown":
        left = max(0.0, (presented.until - now).total_seconds())  # the handshake has just found it valid
        return cls(presented, asyncio.get_running_loop().time() + left + EXPIRY_GRACE)


class Guard:
    """Ends a second stream of a machine (its upload) together with its right to take part."""

    def __init__(self, shown: Shown) -> None:
        self.shown = shown
        self._barred: asyncio.Future[SwitchboardError] = asyncio.get_running_loop().create_future()

    def bar(self, error: SwitchboardError) -> None:
        if not self._barred.done():
            self._barred.set_result(error)

    async def hold(self) -> None:
        """Wait until the machine is barred, and raise why."""
        raise await self._barred
