"""The spool: what is in it survives, what the server has had for long leaves it, and a full one says so."""

import sqlite3
import stat

import pytest
from helpers.clocks import StillClock
from helpers.crash import run_until

from daemon.disk import DiskFull
from daemon.spool import Spool, SpoolDamaged


@pytest.fixture
def clock():
    return StillClock()


@pytest.fixture
def spool(tmp_path, clock):
    spool = Spool(tmp_path, clock)
    yield spool
    spool.close()


def events(first: int, count: int, size: int = 10) -> list[tuple[int, bytes]]:
    return [(seq, b"%06d" % seq + b"x" * (size - 6)) for seq in range(first, first + count)]


def test_events_are_read_back_from_anywhere(spool):
    spool.append("r1", events(1, 20))
    spool.append("r2", events(1, 3))

    assert spool.read("r1", 5, 4) == events(5, 4)
    assert spool.read("r1", 19) == events(19, 2)
    assert spool.read("r1", 21) == []
    assert spool.range("r1") == (1, 21)
    assert spool.range("r2") == (1, 4)
    assert spool.range("nobody") == (1, 1)
    assert spool.runs() == ["r1", "r2"]


def test_a_read_is_bounded_in_bytes_and_never_empty_for_one_big_event(spool):
    spool.append("r1", events(1, 10, 100))

    assert spool.read("r1", 1, 50, 250) == events(1, 2, 100)
    assert spool.read("r1", 1, 50, 10) == events(1, 1, 100)


@pytest.mark.parametrize("wrong", [[(2, b"x")], [(1, b"x"), (3, b"y")], [(1, b"x"), (1, b"y")], [(0, b"x")]])
def test_numbers_with_a_gap_or_a_repeat_are_refused_and_nothing_is_written(spool, wrong):
    with pytest.raises(ValueError, match="the spool of run r1 goes on at 1"):
        spool.append("r1", wrong)
    assert spool.range("r1") == (1, 1)


def test_what_is_acknowledged_stays_for_its_window(spool, clock):
    spool.append("r1", events(1, 10))
    spool.drop("r1", 6)
    clock.pass_ms(14 * 60_000)
    spool.append("r1", events(11, 1))
    spool.drop("r1", 9)
    assert spool.range("r1") == (1, 12)

    clock.pass_ms(60_000)
    spool.drop("r1", 10)
    assert spool.range("r1") == (6, 12)
    clock.pass_ms(15 * 60_000)
    spool.drop("r1", 11)
    assert spool.range("r1") == (10, 12)


def test_a_window_is_bounded_in_bytes(tmp_path, clock):
    spool = Spool(tmp_path, clock, window_bytes=1000)
    for batch in range(10):
        spool.append("r1", events(1 + batch * 5, 5, 100))
        spool.drop("r1", 1 + batch * 5)
    assert spool.range("r1") == (36, 51)
    assert len(spool.read("r1", 1)) == 15
    spool.close()


def test_a_reboot_starts_the_window_over(tmp_path, clock):
    spool = Spool(tmp_path, clock)
    spool.append("r1", events(1, 5))
    spool.drop("r1", 4)
    spool.close()

    clock.boot = 5
    spool = Spool(tmp_path, clock)
    spool.drop("r1", 5)
    assert spool.range("r1") == (1, 6)
    clock.pass_ms(16 * 60_000)
    spool.append("r1", events(6, 1))
    spool.drop("r1", 6)
    assert spool.range("r1")[0] >= 4
    spool.close()


def test_an_older_watermark_changes_nothing(spool, clock):
    spool.append("r1", events(1, 10))
    spool.drop("r1", 8)
    spool.drop("r1", 2)
    clock.pass_ms(16 * 60_000)
    spool.drop("r1", 9)

    assert spool.range("r1") == (8, 11)


def test_numbers_go_on_after_a_skip_and_a_read_stops_at_the_hole(spool):
    spool.append("r1", events(1, 3))
    spool.skip("r1", 10)
    spool.skip("r1", 2)
    spool.append("r1", events(10, 2))

    assert spool.read("r1", 1) == events(1, 3)
    assert spool.read("r1", 4) == events(10, 2)


def test_a_purged_run_leaves_nothing_on_the_disk_and_its_numbers_go_on(tmp_path, spool):
    spool.append("r1", [(1, b"needle-in-the-spool" * 50)])
    spool.append("r2", events(1, 2))
    spool.purge("r1")

    assert spool.range("r1") == (2, 2)
    assert spool.read("r2", 1) == events(1, 2)
    assert all(b"needle-in-the-spool" not in path.read_bytes() for path in tmp_path.iterdir())
    spool.forget("r1")
    assert spool.runs() == ["r2"]


def fill(spool: Spool) -> None:
    while True:
        spool.append("r1", events(spool.range("r1")[1], 10, 1000))


def test_a_full_spool_lets_go_of_what_the_server_has_and_then_refuses(tmp_path, clock):
    spool = Spool(tmp_path, clock, max_bytes=400_000)
    spool.append("r1", events(1, 100, 1000))
    spool.drop("r1", 101)
    spool.append("r1", events(101, 200, 1000))
    spool.append("r1", events(301, 80, 1000))
    assert spool.range("r1")[0] == 101

    with pytest.raises(DiskFull, match=r"spool\.db cannot be written: database or disk is full"):
        fill(spool)
    low, next = spool.range("r1")
    assert low == 101
    assert spool.read("r1", low, 1000, 10**9) == events(low, next - low, 1000)
    spool.drop("r1", next)
    spool.append("r1", events(next, 10, 1000))
    spool.close()


def test_it_is_private(tmp_path, spool):
    spool.append("r1", events(1, 1))

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_damaged_file_is_named_and_left(tmp_path, clock):
    (tmp_path / "spool.db").write_bytes(b"this is not a database" * 1000)
    with pytest.raises(SpoolDamaged, match=r"spool\.db is damaged"):
        Spool(tmp_path, clock)
    assert (tmp_path / "spool.db").read_bytes().startswith(b"this is not")


LINES = """
import sys
from pathlib import Path
from daemon.clock import SystemClock
from daemon.spool import Spool
spool = Spool(Path(sys.argv[1]), SystemClock(), window_ms=0)
for n in range(1, 100):
    low, next = spool.range("r1")
    spool.append("r1", [(next, b"%d" % next), (next + 1, b"%d" % (next + 1))])
    print(next + 2, flush=True)
    spool.drop("r1", next - 4)
"""


@pytest.mark.parametrize("fault", ["spool.written:7", "spool.dropped:7"])
def test_kill_9_loses_and_doubles_nothing(tmp_path, clock, fault):
    told = [int(line) for line in run_until(fault, LINES, str(tmp_path)).split()]
    spool = Spool(tmp_path, clock)
    low, next = spool.range("r1")

    assert next in (told[-1], told[-1] + 2)
    assert low <= max(1, next - 6)
    assert spool.read("r1", low, 1000) == [(seq, b"%d" % seq) for seq in range(low, next)]
    spool.close()


def test_a_spool_of_a_younger_daemon_is_not_touched(tmp_path, clock):
    Spool(tmp_path, clock).close()
    db = sqlite3.connect(tmp_path / "spool.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(SpoolDamaged, match="younger daemon"):
        Spool(tmp_path, clock)


@pytest.mark.parametrize("number", [2**39, 2**64, 10**30])
def test_numbers_that_cannot_be_are_harmless(spool, number):
    spool.append("r1", events(1, 3))
    spool.append("r2", events(1, 3))
    with pytest.raises(ValueError, match="cannot have come to"):
        spool.skip("r1", number)
    spool.drop("r1", number)

    assert spool.read("r1", number) == []
    assert spool.read("r1", 1) == events(1, 3)
    assert spool.range("r1") == (1, 4)
