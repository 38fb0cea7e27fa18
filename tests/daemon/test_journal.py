"""The journal: what it was told is there after a crash, the first decision wins, and orders only ever gain."""

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys

import pytest
from helpers.clocks import StillClock
from helpers.crash import run_through, run_until
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.disk import DiskError
from daemon.domain.approval import Application, ApprovalState, Verdict
from daemon.domain.errors import IllegalTransition, NoSuch
from daemon.domain.facts import (
    Accepted,
    ApprovalRecord,
    InstructionState,
    OrderRecord,
    ReceiptRecord,
    Refused,
    RunRecord,
    Saved,
)
from daemon.domain.run import RunEvent, RunState
from daemon.journal import DiskFull, Journal, JournalDamaged
from daemon.records import MIGRATIONS


@pytest.fixture
def clock():
    return StillClock()


@pytest.fixture
def journal(tmp_path, clock):
    journal = Journal(tmp_path / "home", clock)
    yield journal
    journal.close()


@pytest.fixture
def again(tmp_path, clock, journal):
    """The same journal as a daemon sees it that starts now."""
    opened = []

    def open_again() -> Journal:
        opened.append(Journal(tmp_path / "home", clock))
        return opened[-1]

    yield open_again
    for other in opened:
        other.close()


def question(id: str = "a1", run: str = "r1") -> ApprovalRecord:
    return ApprovalRecord(id, run, 1, "tool", "Bash", '{"command":"ls"}', '{"command":"ls"}', "sha256:0", cwd="/src")


class TestRuns:
    def test_each_write_is_the_next_revision_and_not_acked(self, journal, again):
        run = journal.put_run(RunRecord("r1", prompt="fix \udcff it"))
        assert (run.revision, run.acked) == (1, False)
        journal.acked_run("r1", 1)
        assert journal.run("r1").acked
        assert journal.unacked_runs() == []

        run = journal.put_run(journal.run("r1").take(RunEvent.STOP_ORDERED, "ana: enough"))
        journal.acked_run("r1", 1)
        assert (run.revision, run.state) == (2, RunState.STOPPING)
        assert again().runs() == [run]
        assert journal.unacked_runs() == [run]

    def test_runs_keep_their_order(self, journal):
        for id in ("r2", "r1", "r3", "r1"):
            journal.put_run(RunRecord(id))

        assert [run.id for run in journal.runs()] == ["r2", "r1", "r3"]
        assert journal.run("nobody") is None

    def test_a_prompt_of_a_megabyte_and_ten_thousand_runs(self, journal):
        journal._db.rows("PRAGMA synchronous=OFF")  # the disk is not what is tested here
        for number in range(10_000):
            journal.put_run(RunRecord(f"r{number}"))
        journal.put_run(RunRecord("big", prompt="x" * 1_000_000))

        assert len(journal.runs()) == 10_001
        assert len(journal.run("big").prompt) == 1_000_000

    def test_a_purged_run_is_forgotten_but_that_it_was(self, journal, tmp_path):
        journal.put_run(RunRecord("r1", prompt="the secret plan" * 1000))
        journal.open_approval(question("a1"))
        journal.open_approval(question("a2"))
        journal.settle("a1", ApprovalState.EXPIRED, "nobody came")
        named = Saved("s1", files=2, not_saved=("the secret plan.bin: over 50 MiB",), left_out=1)
        journal.put_receipt(ReceiptRecord("o1", "r1", 1, "ended", safety=named))
        journal.purge_run("r1")
        journal.purge_run("nobody")

        assert journal.run("r1").prompt == ""
        assert [receipt.safety for receipt in journal.receipts("o1")] == [Saved("s1", files=2, left_out=1)]
        assert [record.id for record in journal.open_approvals()] == ["a2"]
        assert journal.approval("a1") is None
        assert all(b"the secret plan" not in path.read_bytes() for path in (tmp_path / "home").iterdir())


class TestApprovals:
    def test_the_first_decision_wins_and_every_other_is_told_so(self, journal, again):
        journal.open_approval(question())
        first = journal.accept_decision("a1", "d1", Verdict.DENY, "ana", "", "not on a friday")
        second = again().accept_decision("a1", "d2", Verdict.APPROVE, "ben", '{"command":"rm"}')

        assert isinstance(first, Accepted)
        assert not first.again
        assert isinstance(second, Refused)
        assert second.reason == "ana decided it first: denied"
        assert second.in_force == first.approval == journal.approval("a1")
        assert first.approval.message == "not on a friday"
        assert first.approval.application is Application.ACCEPTED
        assert journal.open_approvals() == []
        assert journal.undelivered_approvals() == [first.approval]

    def test_the_same_decision_again_is_answered_alike_and_changes_nothing(self, journal):
        journal.open_approval(question())
        first = journal.accept_decision("a1", "d1", Verdict.APPROVE, "ana", '{"command":"ls -l"}')
        again = journal.accept_decision("a1", "d1", Verdict.DENY, "kim")

        assert again == Accepted(first.approval, again=True)
        assert again.approval.verdict is Verdict.APPROVE

    def test_a_decision_comes_too_late_for_a_settled_question(self, journal):
        journal.open_approval(question())
        journal.settle("a1", ApprovalState.EXPIRED, "nobody came within 4 h")
        refused = journal.accept_decision("a1", "d1", Verdict.APPROVE, "ana")

        assert refused.reason == "it is expired: nobody came within 4 h"
        assert refused.in_force.verdict is None
        assert journal.accept_decision("a9", "d1", Verdict.APPROVE, "ana") == Refused(
            "this machine holds no question a9"
        )

    def test_a_decided_question_can_not_be_settled(self, journal):
        journal.open_approval(question())
        journal.accept_decision("a1", "d1", Verdict.APPROVE, "ana")
        for state in (ApprovalState.EXPIRED, ApprovalState.WITHDRAWN):
            with pytest.raises(IllegalTransition):
                journal.settle("a1", state, "too late")
        assert journal.approval("a1").state is ApprovalState.APPROVED
        with pytest.raises(ValueError, match="settled as expired or withdrawn"):
            journal.settle("a1", ApprovalState.APPROVED, "by the back door")

    def test_application_is_a_fact_of_its_own(self, journal):
        journal.open_approval(question())
        with pytest.raises(IllegalTransition):
            journal.applied("a1", Application.APPLIED)
        accepted = journal.accept_decision("a1", "d1", Verdict.APPROVE, "ana").approval
        journal.acked_approval("a1", accepted.revision)
        assert journal.unacked_approvals() == []

        applied = journal.applied("a1", Application.UNDELIVERABLE, "the agent was gone")
        assert applied.state is ApprovalState.APPROVED
        assert journal.unacked_approvals() == [applied]
        assert journal.undelivered_approvals() == []

    def test_opening_again_changes_nothing(self, journal):
        first = journal.open_approval(question())
        journal.settle("a1", ApprovalState.WITHDRAWN, "the agent asked no more")

        assert journal.open_approval(question()).state is ApprovalState.WITHDRAWN
        assert first.state is ApprovalState.OPEN
        with pytest.raises(NoSuch, match="holds no approval a9"):
            journal.settle("a9", ApprovalState.EXPIRED, "")
        with pytest.raises(NoSuch):
            journal.applied("a9", Application.APPLIED)

    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(
            st.sampled_from(["expire", "withdraw"])
            | st.tuples(st.sampled_from(["d1", "d2", "d3"]), st.sampled_from(Verdict)),
            min_size=1,
            max_size=8,
        )
    )
    def test_whatever_comes_in_whatever_order_there_is_one_end(self, tmp_path_factory, story):
        journal = Journal(tmp_path_factory.mktemp("j"), StillClock())
        journal.open_approval(question())
        ends = set()
        for step in story:
            if isinstance(step, tuple):
                answer = journal.accept_decision("a1", step[0], step[1], "by-" + step[0])
                if isinstance(answer, Accepted):
                    ends.add((answer.approval.decision_id, answer.approval.verdict))
            else:
                state = ApprovalState.EXPIRED if step == "expire" else ApprovalState.WITHDRAWN
                with contextlib.suppress(IllegalTransition):
                    ends.add(journal.settle("a1", state, step).state)
        journal.close()
        assert len(ends) == 1


LIFT = {"lifted": True, "lifted_by": "ben", "lift_reason": "over"}


class TestOrders:
    def test_orders_are_a_union_and_a_lift_never_unlifts(self, journal, again):
        one, two = (
            OrderRecord("o1", 1, {"all": True}, "incident", "ana", hold=True),
            OrderRecord("o2", 2, {"repos": ["h/a"]}),
        )
        assert journal.hold_orders("e1", 2, [one, two]) == [one, two]
        lifted = OrderRecord("o1", 3, {"all": True}, "incident", "ana", hold=True, **LIFT)
        assert journal.hold_orders("e1", 3, [lifted]) == [lifted]
        assert journal.hold_orders("e1", 3, [lifted]) == []

        assert journal.hold_orders("e2", 1, [one]) == []
        assert again().orders() == [lifted, two]
        assert journal.orders_held() == ("e2", 1)

    def test_the_generation_never_goes_back_within_a_store(self, journal):
        assert journal.orders_held() == ("", 0)
        journal.hold_orders("e1", 5, [])
        journal.hold_orders("e1", 3, [])
        assert journal.orders_held() == ("e1", 5)

    def test_an_order_is_what_it_was_when_it_came(self, journal):
        journal.hold_orders("e1", 1, [OrderRecord("o1", 1, {"all": True})])
        journal.hold_orders("e1", 2, [OrderRecord("o1", 2, {"runs": ["none"]})])

        assert journal.orders()[0].selector == {"all": True}

    def test_an_order_without_hold_has_its_moment_once(self, journal, again):
        journal.hold_orders("e1", 1, [OrderRecord("o1", 1, {"all": True})])
        assert not journal.evaluated("o1")
        journal.evaluate_order("o1", [("r1", 1), ("r2", 3)])
        journal.evaluate_order("o1", [("r1", 1)])

        assert again().evaluated("o1")
        assert journal.matches("o1") == {("r1", 1), ("r2", 3)}
        assert journal.matches("o2") == frozenset()

    def test_a_receipt_comes_again_with_what_was_saved(self, journal, again):
        receipt = journal.put_receipt(ReceiptRecord("o1", "r1", 1, "ended", "contained", "kill", 12, 20))
        journal.acked_receipt("o1", "r1", 1, receipt.revision)
        assert journal.unacked_receipts() == []
        later = journal.put_receipt(
            ReceiptRecord("o1", "r1", 1, "ended", "contained", "kill", 12, 20, safety=Saved("s1", "c0ffee", 3, 99))
        )
        journal.put_receipt(ReceiptRecord("o1", "r2", 1, "refused"))

        assert later.revision == 2
        assert again().unacked_receipts()[0] == later
        assert [record.run for record in journal.receipts("o1")] == ["r1", "r2"]
        assert journal.matches("o1") == {("r1", 1), ("r2", 1)}

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=20))
    def test_no_order_is_ever_lost_and_no_lift_is_ever_undone(self, tmp_path_factory, story):
        journal = Journal(tmp_path_factory.mktemp("j"), StillClock())
        seen, lifted = set(), set()
        for number, lift in story:
            order = OrderRecord(f"o{number}", number, **(LIFT if lift else {}))
            journal.hold_orders(f"e{number % 2}", number, [order])
            seen.add(order.id)
            lifted |= {order.id} if lift else set()
        assert {order.id for order in journal.orders()} == seen
        assert {order.id for order in journal.orders() if order.lifted} == lifted
        journal.close()


class TestInstructions:
    def test_an_instruction_is_done_once_and_answered_from_here(self, journal, again):
        assert journal.take_instruction("i1", "start", '{"run":"r1"}')
        assert not again().take_instruction("i1", "start", '{"run":"r1"}')
        assert [record.id for record in journal.unfinished_instructions()] == ["i1"]

        done = journal.finish_instruction("i1", InstructionState.FAILED, "no such folder")
        assert journal.finish_instruction("i1", InstructionState.APPLIED) == done
        assert journal.instruction("i1").reason == "no such folder"
        assert journal.unfinished_instructions() == []
        assert journal.unacked_instructions() == [done]
        journal.acked_instruction("i1", done.revision)
        assert journal.unacked_instructions() == []
        with pytest.raises(NoSuch):
            journal.finish_instruction("i9", InstructionState.APPLIED)


class TestEverythingElse:
    def test_meta_values_stay(self, journal, again):
        assert journal.get("machine") is None
        journal.set("machine", "m1")
        journal.set("machine", "m2")
        assert again().get("machine") == "m2"

    def test_trimming_forgets_what_is_over_acked_and_old_and_nothing_else(self, journal, clock):
        for id, state in (("old", RunState.STOPPED), ("live", RunState.IDLE), ("unacked", RunState.FAILED)):
            journal.put_run(RunRecord(id, state=state))
            journal.evaluate_order("o1", [(id, 1)])
            receipt = journal.put_receipt(ReceiptRecord("o1", id, 1))
            journal.acked_receipt("o1", id, 1, receipt.revision)
        journal.hold_orders("e1", 1, [OrderRecord("o1", 1, **LIFT)])
        journal.take_instruction("done", "start", "{}")
        journal.finish_instruction("done", InstructionState.APPLIED)
        journal.take_instruction("at work", "start", "{}")
        journal.open_approval(question("open"))
        for id in ("old", "live"):
            journal.acked_run(id, 1)
        for id in ("done", "at work"):
            journal.acked_instruction(id, 9)
        journal.acked_approval("open", 9)
        clock.pass_ms(1000)
        journal.put_run(RunRecord("young", state=RunState.STOPPED))
        journal.acked_run("young", 1)

        assert journal.trim(clock.wall_ms() - 1) == 4
        assert [run.id for run in journal.runs()] == ["live", "unacked", "young"]
        assert journal.instruction("done") is None
        assert journal.instruction("at work") is not None
        assert len(journal.open_approvals()) == 1
        assert {run for run, _ in journal.matches("o1")} == {"live", "unacked"}
        assert len(journal.orders()) == 1
        assert journal.trim(0) == 0

    def test_a_lift_is_forgotten_when_it_was_learned_long_ago_and_its_receipts_are_known(self, journal, clock, again):
        journal.hold_orders("e1", 1, [OrderRecord(id, 1) for id in ("o1", "o2", "o3")], {"o1": [("r1", 1)]})
        journal.hold_orders("e1", 2, [OrderRecord("o1", 2, **LIFT), OrderRecord("o2", 2, **LIFT)])
        receipt = journal.put_receipt(ReceiptRecord("o1", "r1", 1))
        journal.put_receipt(ReceiptRecord("o2", "r1", 1))
        journal.acked_receipt("o1", "r1", 1, receipt.revision)
        assert journal.forget_lifted(clock.wall_ms()) == 0
        clock.pass_ms(1)

        assert journal.forget_lifted(clock.wall_ms()) == 1
        assert [order.id for order in journal.orders()] == ["o2", "o3"]
        assert (journal.receipts("o1"), journal.matches("o1"), journal.evaluated("o1")) == ([], frozenset(), False)
        assert [order.id for order in again().orders()] == ["o2", "o3"]


class TestTheFile:
    def test_it_is_private(self, tmp_path, journal):
        journal.set("a", "b")

        assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "home").iterdir()} == {0o600}

    def test_every_write_is_fsynced(self, journal):
        assert journal._db.row("PRAGMA synchronous")[0] == 2
        assert journal._db.row("PRAGMA journal_mode")[0] == "wal"

    def test_a_full_journal_says_so_and_changes_nothing(self, tmp_path, clock):
        journal = Journal(tmp_path, clock, max_bytes=200_000)
        journal.put_run(RunRecord("r1"))
        with pytest.raises(DiskFull, match=r"journal\.db cannot be written: database or disk is full"):
            journal.put_run(RunRecord("r1", prompt="x" * 1_000_000))
        assert journal.run("r1").revision == 1
        journal.open_approval(question())
        assert isinstance(journal.accept_decision("a1", "d1", Verdict.DENY, "ana"), Accepted)
        journal.close()

    def test_a_disk_that_takes_no_more_says_so_and_what_was_written_is_there(self, tmp_path, clock):
        lines = """
import resource, sys
from pathlib import Path
from daemon.clock import SystemClock
from daemon.domain.facts import RunRecord
from daemon.journal import DiskFull, Journal
journal = Journal(Path(sys.argv[1]), SystemClock())
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    for number in range(10_000):
        journal.put_run(RunRecord(f"r{number}", prompt="x" * 3000))
        print(number, flush=True)
except DiskFull as error:
    print(error)
"""
        *told, sentence = run_through(lines, str(tmp_path)).splitlines()
        journal = Journal(tmp_path, clock)

        assert "journal.db cannot be written" in sentence
        assert len(journal.runs()) == len(told)
        journal.close()

    @pytest.mark.parametrize("how", ["garbage", "truncated", "empty", "middle", "missing"])
    def test_a_damaged_file_is_told_and_never_made_anew(self, tmp_path, clock, how):
        journal = Journal(tmp_path, clock)
        for number in range(200):
            journal.put_run(RunRecord(f"r{number}", prompt="x" * 1000))
        path = tmp_path / "journal.db"
        if how == "missing":
            path.unlink()  # the log is still there
        else:
            journal.close()
            data = path.read_bytes()
            damaged = {
                "garbage": b"not a database" * 500,
                "truncated": data[: len(data) // 2],
                "empty": b"",
                "middle": data[:8192] + b"\xff" * 40_000 + data[48_192:],
            }[how]
            path.write_bytes(damaged)
        with pytest.raises(JournalDamaged, match=r"journal\.db"):
            Journal(tmp_path, clock)
        assert (not path.exists()) if how == "missing" else (path.read_bytes() == damaged)
        journal.close()

    def test_a_record_that_makes_no_sense_is_damage(self, tmp_path, journal):
        journal.put_run(RunRecord("r1"))
        db = sqlite3.connect(tmp_path / "home" / "journal.db")
        db.execute('UPDATE runs SET record = \'{"id": "r1", "state": "flying"}\'')
        db.commit()
        db.close()
        with pytest.raises(JournalDamaged, match="holds a record that cannot be read"):
            journal.runs()

    def test_a_younger_file_is_left_alone(self, tmp_path, clock):
        Journal(tmp_path, clock).close()
        db = sqlite3.connect(tmp_path / "journal.db")
        db.execute("PRAGMA user_version=99")
        db.close()
        with pytest.raises(JournalDamaged, match="was written by a younger daemon"):
            Journal(tmp_path, clock)

    def test_an_older_file_is_brought_up_step_by_step(self, tmp_path, clock, monkeypatch):
        journal = Journal(tmp_path, clock)
        journal.put_run(RunRecord("r1"))
        journal.close()
        monkeypatch.setattr(
            "daemon.journal.MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE later (a)",), ("DROP TABLE later",))
        )
        journal = Journal(tmp_path, clock)

        assert journal.run("r1") is not None
        assert journal._db.row("PRAGMA user_version")[0] == len(MIGRATIONS) + 2
        journal.close()

    def test_a_second_daemon_is_told_who_holds_it(self, tmp_path, clock, journal):
        other = sqlite3.connect(tmp_path / "home" / "journal.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DiskError, match="held by another process"):
            journal.set("a", "b")
        other.close()

    def test_a_folder_that_cannot_be_made_is_one_sentence(self, tmp_path, clock):
        (tmp_path / "file").write_text("")
        with pytest.raises(DiskFull, match=r"cannot keep .* as a private folder"):
            Journal(tmp_path / "file" / "home", clock)

    def test_no_descriptor_is_leaked(self, tmp_path, clock):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            journal = Journal(tmp_path, clock)
            journal.set("a", "b")
            journal.close()
        assert len(os.listdir("/proc/self/fd")) == before


STORY = """
import sys
from pathlib import Path
from daemon.clock import SystemClock
from daemon.domain.approval import Verdict
from daemon.domain.facts import *
from daemon.journal import Journal
journal = Journal(Path(sys.argv[1]), SystemClock())
for n in range(1, 20):
    journal.put_run(RunRecord("r1", reason=f"step {n}"))
    print("run", n, flush=True)
    journal.open_approval(ApprovalRecord(f"a{n}", "r1", 1, "tool", "Bash", "{}", "{}", "sha256:0"))
    print("approval", n, flush=True)
    journal.accept_decision(f"a{n}", f"d{n}", Verdict.DENY, "ana")
    print("decision", n, flush=True)
    journal.hold_orders("e1", n, [OrderRecord(f"o{n}", n)])
    print("order", n, flush=True)
    journal.put_receipt(ReceiptRecord(f"o{n}", "r1", 1))
    print("receipt", n, flush=True)
    journal.take_instruction(f"i{n}", "start", "{}")
    print("instruction", n, flush=True)
"""


@pytest.mark.parametrize("noun", ["run", "approval", "decision", "order", "receipt", "instruction"])
@pytest.mark.parametrize("moment", ["writing", "written"])
def test_kill_9_at_every_boundary_keeps_what_was_told_and_nothing_in_halves(tmp_path, clock, noun, moment):
    told = run_until(f"journal.{noun}.{moment}:4", STORY, str(tmp_path)).splitlines()
    done = dict.fromkeys(("run", "approval", "decision", "order", "receipt", "instruction"), 0)
    for line in told:
        name, n = line.split()
        done[name] = int(n)
    if moment == "written":
        done[noun] += 1  # it was on the disk before anybody was told
    journal = Journal(tmp_path, clock)
    approvals = [journal.approval(f"a{n}") for n in range(1, 20)]

    assert done[noun] == (4 if moment == "written" else 3)
    assert journal.run("r1").revision == done["run"]
    assert journal.run("r1").reason == f"step {done['run']}"
    assert sum(record is not None for record in approvals) == done["approval"]
    assert sum(record is not None and record.verdict is not None for record in approvals) == done["decision"]
    assert len(journal.orders()) == done["order"] == journal.orders_held()[1]
    assert len(journal.unacked_receipts()) == done["receipt"]
    assert len(journal.unfinished_instructions()) == done["instruction"]
    journal.close()


def test_kill_9_while_the_file_is_made_leaves_a_start_that_works(tmp_path, clock):
    """Whatever part of its making is on the disk, the next start makes it whole."""
    (tmp_path / "journal.db.new").write_bytes(b"half")
    (tmp_path / "journal.db.new-wal").write_bytes(b"half")
    journal = Journal(tmp_path, clock)
    journal.set("a", "b")

    assert journal.get("a") == "b"
    assert not list(tmp_path.glob("*.new*"))
    journal.close()


def test_random_kills_lose_nothing(tmp_path, clock):
    lines = STORY.replace("range(1, 20)", "range(int(sys.argv[2]), 10**6)")
    first = 1
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", lines, str(tmp_path), str(first)], stdout=subprocess.PIPE, text=True
        )
        told = [child.stdout.readline() for _ in range(40)]
        child.kill()
        told += child.stdout.readlines()
        child.stdout.close()
        child.wait()
        journal = Journal(tmp_path, clock)
        decided = {int(line.split()[1]) for line in told if line.startswith("decision") and line.endswith("\n")}
        assert all(journal.approval(f"a{n}").decided_by == "ana" for n in decided)
        orders = {order.id for order in journal.orders()}
        assert {f"o{line.split()[1]}" for line in told if line.startswith("order") and line.endswith("\n")} <= orders
        first = max(decided) + 2
        journal.close()


WORD = """
import sys
from pathlib import Path
from daemon.clock import SystemClock
from daemon.journal import Journal
Journal(Path(sys.argv[1]), SystemClock()).set("drained", "r1")
"""


@pytest.mark.parametrize(("point", "held"), [("journal.meta.writing", None), ("journal.meta.written", "r1")])
def test_kill_9_at_a_single_word_leaves_it_whole_or_not_at_all(tmp_path, clock, point, held):
    run_until(point, WORD, str(tmp_path))

    assert Journal(tmp_path, clock).get("drained") == held
