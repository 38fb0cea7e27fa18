"""What the daemon's files have in common: private, whole or not there, and one sentence when the disk will not have them."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from daemon import faults

Migrations = Sequence[Sequence[str]]
"""The statements that lead from version n to n + 1; a file's user_version says how many it has seen."""

_PAGE = 4096
_LOG_PAGES = 128
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class DiskError(Exception):
    """A file of the daemon cannot be used; the text is one sentence."""


class DiskFull(DiskError):
    """The disk did not take a write: it is full, over its quota, read-only or failing. Nothing was changed."""


class DiskDamaged(DiskError):
    """A file does not hold what was written to it. It is left as it is."""


def private_folder(path: Path) -> Path:
    """Make *path* and its parents, for this user only. Raises DiskFull."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise DiskFull(f"cannot keep {path} as a private folder: {error.strerror}") from error
    return path


def sync_folder(path: Path) -> None:
    """Make the names in *path* durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Database:
    """One SQLite file (WAL) with one writer. A file that exists is never made anew, whatever is wrong with it."""

    def __init__(
        self,
        path: Path,
        migrations: Migrations,
        *,
        synchronous: str,
        max_bytes: int | None = None,
        checked: bool = False,
        damaged: type[DiskDamaged] = DiskDamaged,
    ) -> None:
        """*max_bytes* is a quota, *checked* reads the whole file once. Raises DiskFull, *damaged*."""
        self.path, self.damaged = path, damaged
        private_folder(path.parent)
        with self._clear():
            if not path.exists():
                self._create(migrations)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=2)
        try:
            with self._clear():
                self._synchronous = synchronous
                self._db.execute(f"PRAGMA synchronous={synchronous}")
                self._db.execute("PRAGMA journal_size_limit=16777216")
                if checked:
                    self._check()
                self._migrate(migrations)
                if synchronous == "FULL" and max_bytes is None:
                    self._grow_log()
                if max_bytes is not None:
                    self._db.execute(f"PRAGMA max_page_count={max(1, max_bytes // _PAGE)}")
        except BaseException:  # whatever it was, nobody will come to close it
            self._db.close()
            raise

    def rows(self, sql: str, *values: Any) -> list[Any]:
        with self._clear():
            return self._db.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> Any:
        """Return the first row, or None."""
        with self._clear():
            return self._db.execute(sql, values).fetchone()

    def run(self, sql: str, *values: Any) -> int:
        """Execute one statement inside `writing`; return how many rows it touched."""
        return self._db.execute(sql, values).rowcount

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._db.executemany(sql, rows)

    @contextlib.contextmanager
    def writing(self, before: str = "", after: str = "", *, lazily: bool = False) -> Iterator[None]:
        """One transaction, on the disk when the block is left; the two names are fault points at its commit.

        *lazily*: a death of this process does not lose it, one of the machine may, unless something else was written after it.
        """
        with self._clear():
            if lazily:
                with self._unsynced(), self.writing(before, after):
                    yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                if before:
                    faults.point(before)
                self._db.execute("COMMIT")
            except BaseException:  # a task that is cancelled writes nothing half
                # A failed COMMIT may have rolled back by itself.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        if after:
            faults.point(after)

    def checkpoint(self) -> None:
        """Empty the log into the file, so that what was deleted is in neither."""
        with self._clear():
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        self._db.close()

    def _create(self, migrations: Migrations) -> None:
        # Under another name until it is whole: a file by its own name has always been one of ours.
        if any(Path(f"{self.path}{end}").exists() for end in ("-wal", "-shm")):
            raise self.damaged(f"{self.path} is missing but its log is there: put the file back, or move both away")
        fresh = Path(f"{self.path}.new")
        for end in ("", "-wal", "-shm", "-journal"):
            Path(f"{fresh}{end}").unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # SQLite gives its logs the same mode
        db = sqlite3.connect(fresh, isolation_level=None)
        try:
            db.execute(f"PRAGMA page_size={_PAGE}")
            db.execute("PRAGMA journal_mode=WAL")
            _apply(db, migrations, 0)
        finally:
            db.close()
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(self.path)
        sync_folder(self.path.parent)

    def _grow_log(self) -> None:
        # A log that already has its length is overwritten from its start. One that grows makes the file system commit the new
        # length with every fsync, which takes half as long again. Writing the version again is a page of log each time.
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        with self._unsynced():
            for _ in range(_LOG_PAGES):
                self._db.execute(f"PRAGMA user_version={version}")
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._db.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES - 16}")

    @contextlib.contextmanager
    def _unsynced(self) -> Iterator[None]:
        self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            yield
        finally:
            self._db.execute(f"PRAGMA synchronous={self._synchronous}")

    def _check(self) -> None:
        found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise self.damaged(f"{self.path} is damaged ({str(found).splitlines()[-1]}): restore it, or move it away")

    def _migrate(self, migrations: Migrations) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            raise self.damaged(f"{self.path} is empty where records should be: restore it, or move it away")
        if version > len(migrations):
            raise self.damaged(
                f"{self.path} was written by a younger daemon (format {version}, this one knows {len(migrations)}): "
                "install that version again"
            )
        _apply(self._db, migrations, version)

    @contextlib.contextmanager
    def _clear(self) -> Iterator[None]:
        """Turn what SQLite and the system say into one sentence."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code in _DAMAGED:
                raise self.damaged(f"{self.path} is damaged ({error}): restore it, or move it away") from error
            if code in _BUSY:
                raise DiskError(f"{self.path} is held by another process: end the other daemon first") from error
            if code in _UNWRITABLE:
                raise DiskFull(f"{self.path} cannot be written: {error}") from error
            raise
        except OSError as error:
            raise DiskFull(f"{self.path} cannot be written: {error.strerror or error}") from error


def _apply(db: sqlite3.Connection, migrations: Migrations, version: int) -> None:
    for number, statements in enumerate(migrations[version:], version + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                db.execute(statement)
            db.execute(f"PRAGMA user_version={number}")
            db.execute("COMMIT")
        except BaseException:  # all of a migration or none
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
