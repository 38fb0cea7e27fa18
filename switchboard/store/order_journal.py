"""The orders on this replica's own disk, a JSON line each, fsynced: what puts back an order that the store lost."""

import os
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import structlog

from switchboard import faults
from switchboard.domain.errors import Unavailable
from switchboard.domain.stop import Order
from switchboard.store.codec import Codec, Unreadable

COMPACT_OVER = 1 << 20  # bytes
log = structlog.get_logger()


class FileOrderJournal:
    """One process writes it. A torn last line, which `kill -9` may leave, was never acknowledged and is dropped."""

    def __init__(self, path: Path, *, compact_over: int = COMPACT_OVER) -> None:
        self._path = path
        self._codec: Codec[Order] = Codec(Order)
        self._compact_over = compact_over
        self._orders: dict[str, Order] = {}
        self._extra: dict[str, dict[str, Any]] = {}
        self._writing = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            _sync_folder(path.parent)
            self._load()
        except OSError as error:
            raise Unavailable(f"the order journal {path} cannot be opened: {error.strerror}") from error

    def write(self, order: Order) -> None:
        """Add what *order* and the copy held here add up to; on disk when it returns. Raises Unavailable, e.g. for a full disk."""
        with self._writing:
            known = self._orders.get(order.id)
            united = known.union(order) if known else order
            if united == known:
                return
            line = self._codec.dump(united, self._extra.get(order.id)) + b"\n"
            size = os.fstat(self._file).st_size
            try:
                _write_all(self._file, line)
                os.fsync(self._file)
            except OSError as error:
                os.ftruncate(self._file, size)
                raise Unavailable(f"the order journal {self._path} cannot be written: {error.strerror}") from error
            faults.point("store.orderjournal.written")
            self._orders[order.id] = united
            if size > self._compact_over:
                self._compact()

    def orders(self) -> list[Order]:
        with self._writing:
            return list(self._orders.values())

    def forget(self, ids: Collection[str]) -> None:
        """Drop orders. Where the disk does not take the shorter journal, they are there again after a restart."""
        with self._writing:
            gone = self._orders.keys() & set(ids)
            for id in gone:
                del self._orders[id]
                self._extra.pop(id, None)
            if gone:
                self._compact()

    def close(self) -> None:
        os.close(self._file)

    def _load(self) -> None:
        text = self._path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.ftruncate(self._file, whole)
        for number, line in enumerate(text[:whole].splitlines(), 1):
            try:
                order, extra = self._codec.load(line)
            except Unreadable as error:
                log.error(
                    "a line of the order journal cannot be read", path=str(self._path), line=number, why=str(error)
                )
                continue
            known = self._orders.get(order.id)
            self._orders[order.id] = known.union(order) if known else order
            self._extra[order.id] = extra

    def _compact(self) -> None:
        """Write the present state beside the journal and put it in its place. A failure leaves the long one."""
        lines = b"".join(self._codec.dump(o, self._extra.get(o.id)) + b"\n" for o in self._orders.values())
        self._compact_over = max(self._compact_over, 4 * len(lines))
        short = self._path.with_suffix(".short")
        try:
            file = os.open(short, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                _write_all(file, lines)
                os.fsync(file)
                os.replace(short, self._path)
                _sync_folder(self._path.parent)
            except OSError:
                os.close(file)
                raise
        except OSError as error:
            log.warning("the order journal stays long", path=str(self._path), why=error.strerror)
            return
        os.close(self._file)
        self._file = file


def _write_all(file: int, text: bytes) -> None:
    while text:
        text = text[os.write(file, text) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
