"""The clock is an argument: one is made at the top and handed down."""

import time
from typing import Protocol


class Clock(Protocol):
    def boot_ms(self) -> int:
        """Milliseconds since boot, sleep included; every deadline of the daemon is on it, so a wrong wall clock changes nothing."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970, for people to read; never compared."""


class SystemClock:
    def boot_ms(self) -> int:
        clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS has no CLOCK_BOOTTIME
        return time.clock_gettime_ns(clock) // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
