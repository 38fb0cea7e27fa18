"""A handle for one keeper: what it told, and whether it still gives signs of life.

A keeper is believed about one thing only, the exit code of its agent; everything else is a hint that the daemon checks.
"""

import asyncio
from enum import StrEnum

from daemon import proctable
from daemon.clock import Clock
from daemon.domain.tree import Born

MISSED_PINGS = 3


class Grade(StrEnum):
    CONTAINED = "contained"  # held by a cgroup that it was born in
    TRACED = "traced"  # held by kinship: its keeper, and after that the daemon, inherits every orphan
    BEST_EFFORT = "best-effort"  # found by what it says of itself


class KeeperFailed(Exception):
    """The agent was not started, or cannot be kept; the text is one sentence for the person who started the run."""


class Keeper:
    """One attempt's keeper, from its call until the daemon forgets the run."""

    def __init__(self, run: str, born: Born, line: asyncio.Transport, clock: Clock) -> None:
        self.run = run
        self.born = born
        self.pid = born[0]
        self.agent_pid: int | None = None
        self.grade = Grade.TRACED if proctable.LINUX else Grade.BEST_EFFORT
        self.exited: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.lost = asyncio.Event()
        self.empty = False  # by its own word; only says that a broken line is not a loss
        self.proven = False  # by the daemon's own look
        self.relieved = False  # the daemon has begun to end it
        self._clock = clock
        self._heard_ms = clock.boot_ms()
        self._missed = 0
        self._line = line

    def silent_ms(self) -> int:
        """Return how long ago it last gave a sign of life, on the boot clock."""
        return self._clock.boot_ms() - self._heard_ms

    def heard(self) -> None:
        self._heard_ms, self._missed = self._clock.boot_ms(), 0

    def ping(self) -> None:
        """Ask for a sign of life; a stopped keeper sees no broken line, so silence is how it is found out."""
        if self._line.is_closing() or self.lost.is_set():
            return
        if self._missed >= MISSED_PINGS:
            self.lost.set()
            return
        self._missed += 1
        self._line.write(b'{"ping": 1}\n')

    def hang_up(self) -> None:
        """Break the life line on purpose: a keeper that still works then ends whatever it holds, and itself."""
        self.empty = True
        self._line.abort()

    def relieve(self, code: int | None) -> None:
        """The daemon ends it on purpose, and its agent with *code*; None where that is not known."""
        self.empty = self.relieved = True
        self.tell_exit(code)

    def tell_exit(self, code: int | None) -> None:
        if not self.exited.done():
            self.exited.set_result(code)

    def gone(self) -> None:
        """Its line is broken."""
        if not self.empty:
            self.lost.set()
        self.tell_exit(None)
