"""How a tree of processes is brought to an end: which rung follows which, on what is seen, and after how long.

A rung is only ever left upwards, and only what the daemon sees itself moves it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Rung(StrEnum):
    NONE = "none"  # there was nothing to end
    INTERRUPT = "interrupt"  # SIGINT to the agent, which may end its turn and close its files
    TERMINATE = "terminate"  # SIGTERM to every process of the tree
    KILL = "kill"  # SIGKILL, again and again until nothing is left


class Sight(StrEnum):
    EMPTY = "empty"  # nothing of the tree lives
    LIVE = "live"
    HEADLESS = "headless"  # the agent is gone, others live
    FROZEN = "frozen"  # paused: it must not do anything any more, so it is not thawed for a polite signal
    OVERDUE = "overdue"  # something lives past the rung's patience


class Do(StrEnum):
    SIGNAL = "signal"  # give the signal of the rung that the walk now stands on
    WAIT = "wait"
    DONE = "done"
    GIVE_UP = "give_up"  # SIGKILL was not enough: say what is left


LADDER = (Rung.INTERRUPT, Rung.TERMINATE, Rung.KILL)

PATIENCE_MS: Mapping[Rung, int] = {
    Rung.INTERRUPT: 1_500,  # Claude Code needs 1.5 s to put its session file in order
    Rung.TERMINATE: 1_000,
    Rung.KILL: 5_000,  # a process in uninterruptible sleep, or of another user, outlives any patience
}

MOVES: Mapping[Rung, Mapping[Sight, tuple[Rung, Do]]] = {
    Rung.INTERRUPT: {
        Sight.EMPTY: (Rung.INTERRUPT, Do.DONE),
        Sight.LIVE: (Rung.INTERRUPT, Do.WAIT),
        Sight.HEADLESS: (Rung.TERMINATE, Do.SIGNAL),
        Sight.FROZEN: (Rung.KILL, Do.SIGNAL),
        Sight.OVERDUE: (Rung.TERMINATE, Do.SIGNAL),
    },
    Rung.TERMINATE: {
        Sight.EMPTY: (Rung.TERMINATE, Do.DONE),
        Sight.LIVE: (Rung.TERMINATE, Do.WAIT),
        Sight.HEADLESS: (Rung.TERMINATE, Do.WAIT),
        Sight.FROZEN: (Rung.KILL, Do.SIGNAL),
        Sight.OVERDUE: (Rung.KILL, Do.SIGNAL),
    },
    Rung.KILL: {
        Sight.EMPTY: (Rung.KILL, Do.DONE),
        Sight.LIVE: (Rung.KILL, Do.SIGNAL),  # whoever was born since the last look
        Sight.HEADLESS: (Rung.KILL, Do.SIGNAL),
        Sight.FROZEN: (Rung.KILL, Do.SIGNAL),
        Sight.OVERDUE: (Rung.KILL, Do.GIVE_UP),
    },
}


@dataclass(frozen=True, slots=True)
class Walk:
    """One climb. It stands on NONE until it has first seen something alive; *first* is the rung that it then begins with."""

    first: Rung
    patience_ms: Mapping[Rung, int] = field(default_factory=lambda: PATIENCE_MS)
    rung: Rung = Rung.NONE
    since_ms: int = 0

    def take(self, sight: Sight, at_ms: int) -> tuple["Walk", Do]:
        """Return the walk as it stands after *sight*, and what is to be done."""
        if self.rung is Rung.NONE:
            if sight is Sight.EMPTY:
                return self, Do.DONE
            rung, do = self.first, Do.SIGNAL
            if sight is Sight.FROZEN or (sight is Sight.HEADLESS and self.first is Rung.INTERRUPT):
                rung, do = MOVES[self.first][sight]
            return replace(self, rung=rung, since_ms=at_ms), do
        timeless = {Sight.EMPTY} if self.rung is Rung.KILL else {Sight.EMPTY, Sight.FROZEN}
        if sight not in timeless and self.left_ms(at_ms) == 0:
            sight = Sight.OVERDUE
        rung, do = MOVES[self.rung][sight]
        return (self if rung is self.rung else replace(self, rung=rung, since_ms=at_ms)), do

    def left_ms(self, at_ms: int) -> int:
        """What is left of this rung's patience."""
        return max(0, self.since_ms + self.patience_ms.get(self.rung, 0) - at_ms)
