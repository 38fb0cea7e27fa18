"""Numbered output on disk, from its numbering until the server has long had it."""

from collections.abc import Sequence
from pathlib import Path

from daemon.clock import Clock
from daemon.disk import Database, DiskDamaged, DiskFull

MIGRATIONS = (
    (
        "CREATE TABLE runs (number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL UNIQUE, next INTEGER NOT NULL)",
        # A place is the run's number and the event's, so that a run's events lie together and in order.
        "CREATE TABLE events (place INTEGER PRIMARY KEY, size INTEGER NOT NULL, bytes BLOB NOT NULL)",
        "CREATE TABLE acks (number INTEGER, below INTEGER, at_ms INTEGER NOT NULL, PRIMARY KEY (number, below))"
        " WITHOUT ROWID",
    ),
)
_SEQ_BITS = 40
WINDOW_MS = 15 * 60_000
WINDOW_BYTES = 64 << 20
_MARK_MS = 10_000  # one row of the acks table stands for so much time


class SpoolDamaged(DiskDamaged):
    """The spool does not hold what was written to it. It is left as it is."""


class Spool:
    """What the server has acknowledged stays for 15 minutes or 64 MB per run, so that one that lost data can be refilled."""

    def __init__(
        self,
        home: Path,
        clock: Clock,
        max_bytes: int | None = None,
        *,
        window_ms: int = WINDOW_MS,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        """Open home/spool.db, made on the first start. *max_bytes* is its quota. Raises DiskFull, SpoolDamaged."""
        self._clock, self._window_ms, self._window_bytes = clock, window_ms, window_bytes
        self._db = Database(
            home / "spool.db", MIGRATIONS, synchronous="NORMAL", max_bytes=max_bytes, damaged=SpoolDamaged
        )
        self._acked: dict[int, tuple[int, int]] = {}  # of each run: acknowledged below, and the bytes of it still held
        # Boot time starts over with the machine: a mark from the future is one of an earlier boot.
        with self._db.writing():
            now = clock.boot_ms()
            self._db.run("UPDATE acks SET at_ms = ? WHERE at_ms > ?", now, now)

    def close(self) -> None:
        self._db.close()

    def append(self, run: str, events: Sequence[tuple[int, bytes]]) -> None:
        """Keep events, numbered without a gap from the run's next. Raises DiskFull, and ValueError for other numbers.

        A full spool lets go of what the server has before it refuses.
        """
        if not events:
            return
        _, next = self.range(run)
        if [seq for seq, _ in events] != list(range(next, next + len(events))):
            raise ValueError(f"the spool of run {run} goes on at {next}, not with {events[0][0]} to {events[-1][0]}")
        try:
            self._append(run, events)
        except DiskFull:
            if not self._let_go():
                raise
            self._append(run, events)

    def read(self, run: str, first: int, max_count: int = 50, max_bytes: int = 256 << 10) -> list[tuple[int, bytes]]:
        """Return held events from *first* on, or from the first that is still held, without a gap between them; at least
        one if there is one, however big it is."""
        number = self._number(run)
        begin, total, end = None, 0, 0
        for place, size in self._db.rows(
            "SELECT place, size FROM events WHERE place >= ? AND place < ? ORDER BY place LIMIT ?",
            *(_place(number, first), _place(number + 1, 0), max_count),
        ):
            total += size
            if begin is not None and (total > max_bytes or place != end):
                break
            begin, end = (place if begin is None else begin), place + 1
        rows = self._db.rows(
            "SELECT place, bytes FROM events WHERE place >= ? AND place < ? ORDER BY place", begin, end
        )
        return [(place - _place(number, 0), data) for place, data in rows]

    def range(self, run: str) -> tuple[int, int]:
        """Return (the lowest number held, the next to give); they are equal when nothing is held."""
        known = self._db.row("SELECT number, next FROM runs WHERE run = ?", run)
        if known is None:
            return 1, 1
        number, next = known
        sql = "SELECT min(place) FROM events WHERE place >= ? AND place < ?"
        low = self._db.row(sql, _place(number, 0), _place(number + 1, 0))[0]
        return (next if low is None else low - _place(number, 0)), next

    def runs(self) -> list[str]:
        """Every run that has ever been numbered here and was not forgotten."""
        return [run for (run,) in self._db.rows("SELECT run FROM runs ORDER BY number")]

    def skip(self, run: str, next: int) -> None:
        """Go on at *next*: the server has numbers that this machine lost with its power. A lower one changes nothing.

        Raises ValueError for a number that no run can have come to.
        """
        if next >> (_SEQ_BITS - 1):
            raise ValueError(f"run {run} cannot have come to event {next:,}")
        with self._db.writing():
            self._numbered(run, next)

    def drop(self, run: str, below: int) -> None:
        """The server has every event below, durably: let go of those that it has had for the window."""
        now, number = self._clock.boot_ms(), self._number(run)
        known, held = self._acked.get(number) or self._count(number)
        below = min(below, self.range(run)[1])
        if below <= known:
            return
        with self._db.writing("", "spool.dropped"):
            held += self._bytes(number, known, below)
            # One mark stands for a stretch of time: the newest number, at the time when the stretch began.
            mark = self._db.row("SELECT max(below), at_ms FROM acks WHERE number = ?", number)
            if mark[0] is not None and now - mark[1] < min(_MARK_MS, self._window_ms):
                self._db.run("UPDATE acks SET below = ? WHERE number = ? AND below = ?", below, number, mark[0])
            else:
                self._db.run("INSERT INTO acks (number, below, at_ms) VALUES (?, ?, ?)", number, below, now)
            sql = "SELECT coalesce(max(below), 0) FROM acks WHERE number = ? AND at_ms <= ?"
            old = self._db.row(sql, number, now - self._window_ms)[0]
            held -= self._delete(number, max(old, self._outside(number, below, held - self._window_bytes)))
        self._acked[number] = below, held

    def purge(self, run: str) -> None:
        """Forget what the run said, on the disk too. Its numbers go on, so that none is given twice."""
        number = self._number(run)
        self._db.rows("PRAGMA secure_delete=ON")
        try:
            with self._db.writing():
                self._delete(number, 1 << _SEQ_BITS)
                self._db.run("DELETE FROM acks WHERE number = ?", number)
        finally:
            self._db.rows("PRAGMA secure_delete=OFF")
        self._acked.pop(number, None)
        self._db.checkpoint()

    def forget(self, run: str) -> None:
        """Forget the run and its numbers: it will never speak again."""
        self.purge(run)
        with self._db.writing():
            self._db.run("DELETE FROM runs WHERE run = ?", run)

    def size(self) -> int:
        """Bytes of the file that are in use."""
        pages, free, page = (
            self._db.row(f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * page)

    def _append(self, run: str, events: Sequence[tuple[int, bytes]]) -> None:
        with self._db.writing("", "spool.written"):
            self._numbered(run, events[-1][0] + 1)
            number = self._number(run)
            self._db.many(
                "INSERT INTO events (place, size, bytes) VALUES (?, ?, ?)",
                [(_place(number, seq), len(data), data) for seq, data in events],
            )

    def _number(self, run: str) -> int:
        known = self._db.row("SELECT number FROM runs WHERE run = ?", run)
        return int(known[0]) if known else 0

    def _numbered(self, run: str, next: int) -> None:
        self._db.run(
            "INSERT INTO runs (run, next) VALUES (?, ?) ON CONFLICT (run) DO UPDATE SET next = max(next, excluded.next)",
            *(run, next),
        )

    def _delete(self, number: int, below: int) -> int:
        """Let go of everything below; return its bytes."""
        freed = self._bytes(number, 0, below)
        self._db.run("DELETE FROM acks WHERE number = ? AND below < ?", number, below)
        self._db.run("DELETE FROM events WHERE place >= ? AND place < ?", _place(number, 0), _place(number, below))
        return freed

    def _bytes(self, number: int, first: int, below: int) -> int:
        sql = "SELECT coalesce(sum(size), 0) FROM events WHERE place >= ? AND place < ?"
        return int(self._db.row(sql, _place(number, first), _place(number, below))[0])

    def _count(self, number: int) -> tuple[int, int]:
        known = self._db.row("SELECT coalesce(max(below), 0) FROM acks WHERE number = ?", number)[0]
        return known, self._bytes(number, 0, known)

    def _outside(self, number: int, below: int, excess: int) -> int:
        """Return the number below which the oldest acknowledged events are *excess* bytes."""
        cut = _place(number, 0)
        if excess > 0:
            for place, size in self._db.rows(
                "SELECT place, size FROM events WHERE place >= ? AND place < ? ORDER BY place LIMIT 10000",
                *(cut, _place(number, below)),
            ):
                cut, excess = place + 1, excess - size
                if excess <= 0:
                    break
        return cut - _place(number, 0)

    def _let_go(self) -> int:
        with self._db.writing():
            self._acked.clear()
            marks = self._db.rows("SELECT number, max(below) FROM acks GROUP BY number")
            return sum(self._delete(number, below) for number, below in marks)


def _place(number: int, seq: int) -> int:
    return (number << _SEQ_BITS) + min(max(seq, 0), 1 << _SEQ_BITS)
