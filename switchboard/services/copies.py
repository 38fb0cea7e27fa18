"""Notices two daemons that take turns in being one machine. One that restarts, or reconnects, is no copy."""

import asyncio
from collections import defaultdict, deque

FLIPS = 3  # more of them within FLIP_WINDOW are two copies
FLIP_WINDOW = 600.0  # seconds
REMEMBERED = 8  # starts of a daemon


class Copies:
    def __init__(self) -> None:
        self._boots: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._flips: defaultdict[str, deque[float]] = defaultdict(deque)

    def came(self, machine: str, boot_epoch: str, live: str | None) -> str:
        """Note a hello; *live* is the boot epoch of the stream that it takes over. Return why these are copies, or nothing.

        A boot epoch is random per start of a daemon: one that returns after another was there, or takes over a live stream, is a flip.
        """
        boots, flips, now = self._boots[machine], self._flips[machine], asyncio.get_running_loop().time()
        back_again = boot_epoch in boots and boots[-1] != boot_epoch
        took_over = live is not None and live != boot_epoch
        if boot_epoch in boots:
            boots.remove(boot_epoch)
        boots.append(boot_epoch)
        if not (back_again or took_over):
            return ""
        flips.append(now)
        while now - flips[0] > FLIP_WINDOW:
            flips.popleft()
        if len(flips) <= FLIPS:
            return ""
        count = len(flips)
        flips.clear()
        return f"two daemons took turns in being it, {count} times in {FLIP_WINDOW / 60:.0f} minutes"
