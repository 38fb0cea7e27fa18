"""Slows down whoever guesses passwords, without locking the owner out: addresses that once got it right keep their own count.

What is left to the owner in any case: a session that is open, and a one-time link, neither of which passes here.
"""

from collections import OrderedDict
from datetime import datetime, timedelta

FREE = 5  # mistakes that cost nothing
WORST = timedelta(minutes=1)
FORGOTTEN = timedelta(minutes=30)
KEPT = 10_000  # counters in memory; the oldest go first

Key = tuple[str, str]  # person and address; either may be empty: all of them


class Throttle:
    """Counts tries per person, per address, and per pair. Time is an argument."""

    def __init__(self) -> None:
        self._tries: OrderedDict[Key, tuple[int, datetime]] = OrderedDict()
        self._known: OrderedDict[Key, None] = OrderedDict()

    def take(self, person: str, address: str, at: datetime) -> timedelta:
        """Count one try and return zero; or count nothing and return how long to wait before the next.

        A try counts before its outcome is known, or a thousand at once would all be free.
        """
        keys = self._keys(person, address)
        wait = max(self._left(key, at) for key in keys)
        if wait:
            return wait
        for key in keys:
            count, since = self._tries.pop(key, (0, at))
            self._tries[key] = (1 if at - since > FORGOTTEN else count + 1, at)
        while len(self._tries) > KEPT:
            self._tries.popitem(last=False)
        return timedelta(0)

    def succeeded(self, person: str, address: str) -> None:
        for key in self._keys(person, address):
            count, since = self._tries.get(key, (0, None))
            if since is not None:
                self._tries[key] = (max(0, count - 1), since)
        self._tries.pop((person, address), None)
        self._known.pop((person, address), None)
        self._known[(person, address)] = None
        while len(self._known) > KEPT:
            self._known.popitem(last=False)

    def _keys(self, person: str, address: str) -> list[Key]:
        pair = (person, address)
        return [pair] if pair in self._known else [pair, (person, ""), ("", address)]

    def _left(self, key: Key, at: datetime) -> timedelta:
        count, since = self._tries.get(key, (0, at))
        free = FREE if all(key) else FREE * 4
        if count < free:
            return timedelta(0)
        pause = min(WORST, timedelta(seconds=2 ** min(count - free, 10)))
        return max(timedelta(0), since + pause - at)
