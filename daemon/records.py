"""A table of records that the server acknowledges: each write is the next revision, and un-acks what was acked."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from daemon.clock import Clock
from daemon.disk import Database
from daemon.domain.facts import ApprovalRecord, InstructionRecord, ReceiptRecord, RunRecord, pack, unpack

R = TypeVar("R", RunRecord, ApprovalRecord, ReceiptRecord, InstructionRecord)

_COLUMNS = "revision INTEGER NOT NULL, acked INTEGER NOT NULL, touched INTEGER NOT NULL, record TEXT NOT NULL"
MIGRATIONS = (
    (
        f"CREATE TABLE runs (id TEXT PRIMARY KEY, ended INTEGER NOT NULL, {_COLUMNS})",
        f"CREATE TABLE approvals (id TEXT PRIMARY KEY, run TEXT NOT NULL, state TEXT NOT NULL, {_COLUMNS})",
        "CREATE INDEX approvals_of_a_run ON approvals (run)",
        "CREATE TABLE orders (position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
        " evaluated INTEGER NOT NULL DEFAULT 0, record TEXT NOT NULL)",
        "CREATE TABLE matched (order_id TEXT, run TEXT, attempt INTEGER, PRIMARY KEY (order_id, run, attempt))",
        f"CREATE TABLE receipts (order_id TEXT, run TEXT, attempt INTEGER, {_COLUMNS},"
        " PRIMARY KEY (order_id, run, attempt))",
        f"CREATE TABLE instructions (id TEXT PRIMARY KEY, state TEXT NOT NULL, {_COLUMNS})",
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    ),
    (
        # When this machine learned of the lift, by its wall clock.
        "ALTER TABLE orders ADD COLUMN lifted_ms INTEGER",
        "UPDATE orders SET lifted_ms = strftime('%s', 'now') * 1000 WHERE json_extract(record, '$.lifted')",
    ),
)


class Records(Generic[R]):
    """Table, key and condition are words of the code, never a value from outside."""

    def __init__(self, db: Database, clock: Clock, table: str, cls: type[R], key: Mapping[str, str]) -> None:
        """*key* maps the columns of the primary key to fields of the record."""
        self._db, self._clock, self._table = db, clock, table
        self._cls: type[R] = cls
        self._key = dict(key)
        self._this = " AND ".join(f"{column} = ?" for column in key)

    def put(self, record: R, **columns: Any) -> R:
        """Write *record* as its next revision, not acked, inside `Database.writing`; return it so."""
        key: list[Any] = [getattr(record, name) for name in self._key.values()]
        found = self._db.row(f"SELECT revision FROM {self._table} WHERE {self._this}", *key)
        record = replace(record, revision=max(found[0] if found else 0, record.revision) + 1, acked=False)
        columns |= {"revision": record.revision, "acked": 0, "touched": self._clock.wall_ms(), "record": pack(record)}
        names, marks = [*self._key, *columns], ", ".join("?" * (len(key) + len(columns)))
        self._db.run(
            f"INSERT INTO {self._table} ({', '.join(names)}) VALUES ({marks}) ON CONFLICT ({', '.join(self._key)})"
            f" DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in columns)}",
            *key,
            *columns.values(),
        )
        return record

    def one(self, *key: Any) -> R | None:
        row = self._db.row(f"SELECT record, revision, acked FROM {self._table} WHERE {self._this}", *key)
        return None if row is None else self._read(row)

    def all(self, where: str = "1", *values: Any) -> list[R]:
        """Return the records that fit *where*, in the order in which they were first written."""
        sql = f"SELECT record, revision, acked FROM {self._table} WHERE {where} ORDER BY rowid"
        return [self._read(row) for row in self._db.rows(sql, *values)]

    def acked(self, revision: int, *key: Any) -> None:
        """Write that the server has this revision; a later one stays un-acked. One that is lost is said once more."""
        with self._db.writing(lazily=True):
            self._db.run(f"UPDATE {self._table} SET acked = 1 WHERE {self._this} AND revision <= ?", *key, revision)

    def trim(self, before_wall_ms: int, where: str) -> int:
        """Forget what is acked, was last touched before then and fits *where*, inside `Database.writing`."""
        return self._db.run(f"DELETE FROM {self._table} WHERE acked AND touched < ? AND {where}", before_wall_ms)

    def _read(self, row: Any) -> R:
        text, revision, acked = row
        try:
            record: R = unpack(self._cls, text)
            return replace(record, revision=revision, acked=bool(acked))
        except (ValueError, TypeError, KeyError) as error:
            raise self._db.damaged(f"{self._db.path} holds a record that cannot be read: {error}") from error
