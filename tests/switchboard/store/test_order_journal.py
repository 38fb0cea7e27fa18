"""The orders on this replica's own disk: what was acknowledged is there after `kill -9`, a torn line is not."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchboard.domain.errors import Unavailable
from switchboard.domain.stop import Order, Selector
from switchboard.store.order_journal import FileOrderJournal

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def order(id: str = "o1", generation: int = 1, lifted: bool = False, reason: str = "r") -> Order:
    return Order(
        id=id,
        generation=generation,
        selector=Selector(repos=("a/b",)),
        reason=reason,
        by="ana",
        issued_at=NOON,
        review_at=NOON + timedelta(hours=8),
        lifted=lifted,
        expected={"r1": "mill"},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "orders.jsonl"


def reopened(path: Path) -> dict[str, Order]:
    journal = FileOrderJournal(path)
    found = {o.id: o for o in journal.orders()}
    journal.close()
    return found


def test_what_was_written_is_there_again(path: Path) -> None:
    journal = FileOrderJournal(path)
    journal.write(order("o1", reason="naïve\n\u2028 \x00"))
    journal.write(order("o2"))
    journal.write(order("o1", generation=3, lifted=True))
    journal.close()

    assert reopened(path) == {"o1": order("o1", generation=3, lifted=True), "o2": order("o2")}
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_forgotten_stays_forgotten(path: Path) -> None:
    journal = FileOrderJournal(path)
    for n in range(3):
        journal.write(order(f"o{n}"))
    journal.forget(["o1", "never"])
    journal.write(order("o3"))
    journal.close()

    assert list(reopened(path)) == ["o0", "o2", "o3"]


def test_a_lift_is_never_undone(path: Path) -> None:
    journal = FileOrderJournal(path)
    journal.write(order(generation=2, lifted=True))
    journal.write(order(generation=9))

    assert journal.orders() == [order(generation=2, lifted=True)]
    journal.close()
    assert reopened(path) == {"o1": order(generation=2, lifted=True)}


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 3000), tail=st.binary(max_size=40).filter(lambda b: b"\n" not in b))
def test_a_torn_last_line_is_dropped_and_the_next_write_is_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int, tail: bytes
) -> None:
    path = tmp_path_factory.mktemp("j") / "orders.jsonl"
    journal = FileOrderJournal(path)
    for n in range(5):
        journal.write(order(f"o{n}"))
    journal.close()
    text = path.read_bytes()
    kept = text[: min(cut, len(text))]
    path.write_bytes(kept + tail)
    whole = kept.count(b"\n")

    journal = FileOrderJournal(path)
    assert {o.id for o in journal.orders()} == {f"o{n}" for n in range(whole)}
    journal.write(order("after"))
    journal.close()
    assert set(reopened(path)) == {f"o{n}" for n in range(whole)} | {"after"}


def test_a_damaged_line_in_the_middle_costs_only_itself(path: Path) -> None:
    path.parent.mkdir()
    journal = FileOrderJournal(path)
    for n in range(3):
        journal.write(order(f"o{n}"))
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\xff{garbage\n" + lines[2])

    assert set(reopened(path)) == {"o0", "o2"}


def test_a_long_journal_is_made_short_and_keeps_what_a_newer_switchboard_wrote(path: Path) -> None:
    path.parent.mkdir()
    journal = FileOrderJournal(path)
    journal.write(order())
    journal.close()
    path.write_bytes(path.read_bytes().replace(b'{"id"', b'{"mood":"calm","id"'))
    journal = FileOrderJournal(path, compact_over=5_000)
    for n in range(2, 200):
        journal.write(order(generation=n))
    journal.close()

    assert path.stat().st_size < 12_000
    assert b'"mood":"calm"' in path.read_bytes()
    assert reopened(path) == {"o1": order(generation=199)}


def test_a_full_disk_is_one_sentence_and_the_journal_stays_good(path: Path) -> None:
    journal = FileOrderJournal(path)
    journal.write(order("o1"))
    limit = path.stat().st_size + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(Unavailable, match="cannot be written"):
            journal.write(order("o2"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert [o.id for o in journal.orders()] == ["o1"]
    journal.write(order("o3"))
    journal.close()

    assert set(reopened(path)) == {"o1", "o3"}


def test_a_path_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be opened: Is a directory"):
        FileOrderJournal(tmp_path)


def test_threads_may_write_at_once(path: Path) -> None:
    journal = FileOrderJournal(path, compact_over=2_000)

    def write(name: str) -> Callable[[], None]:
        return lambda: [journal.write(order(f"{name}{n}")) for n in range(25)] and None

    threads = [threading.Thread(target=write(name)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()

    assert set(reopened(path)) == {f"{name}{n}" for name in "abcd" for n in range(25)}


def test_kill_9_right_after_the_write_loses_nothing_that_was_acknowledged(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests/switchboard/store')\n"
        "from test_order_journal import order\n"
        "from switchboard.store.order_journal import FileOrderJournal\n"
        "journal = FileOrderJournal(Path(sys.argv[1]))\n"
        "for n in range(9):\n"
        "    journal.write(order(f'o{n}')); print(n, flush=True)\n"
    )
    environment = {**os.environ, "SWITCHBOARD_FAULT": "store.orderjournal.written:4"}
    root = Path(__file__).parents[3]
    died = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, env=environment, cwd=root, check=False
    )

    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert died.stdout.split() == [b"0", b"1", b"2"]
    assert set(reopened(path)) == {"o0", "o1", "o2", "o3"}
    assert replace(order("o3")) == reopened(path)["o3"]
