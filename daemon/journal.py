"""The machine's truth on its own disk: runs, questions, orders, receipts and instructions.

Each method that writes is one transaction, on the disk when it returns; a revision grows with every write of a record, and
the record counts as acked once the server has acknowledged that revision.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from daemon.clock import Clock
from daemon.disk import Database, DiskDamaged, DiskError, DiskFull
from daemon.domain import approval as questions
from daemon.domain.approval import BY_VERDICT, Application, ApprovalEvent, ApprovalState, Verdict
from daemon.domain.errors import IllegalTransition, NoSuch
from daemon.domain.facts import (
    Accepted,
    ApprovalRecord,
    InstructionRecord,
    InstructionState,
    OrderRecord,
    ReceiptRecord,
    Refused,
    RunRecord,
    pack,
    unpack,
)
from daemon.domain.run import ENDED
from daemon.records import MIGRATIONS, Records

__all__ = ["DiskError", "DiskFull", "Journal", "JournalDamaged"]

Meets = Mapping[str, Iterable[tuple[str, int]]]  # order: the (run, attempt) of this machine that it means
MEETS_NOTHING: Meets = MappingProxyType({})
# A decision is in force by its approval's own record, and may be told twice: how it travelled need not outlive the machine's death.
DECISION = "decision"


class JournalDamaged(DiskDamaged):
    """The journal does not hold what was written to it. It is left as it is, for a person to restore."""


class Journal:
    _held: dict[str, OrderRecord]  # as on the disk, by id
    _evaluated: set[str]
    _set_held: tuple[str, int]

    def __init__(self, home: Path, clock: Clock, max_bytes: int | None = None) -> None:
        """Open home/journal.db, made on the first start. *max_bytes* is its quota. Raises DiskFull, JournalDamaged."""
        path = home / "journal.db"
        self._db = db = Database(
            path, MIGRATIONS, synchronous="FULL", max_bytes=max_bytes, checked=True, damaged=JournalDamaged
        )
        self._clock = clock
        db.rows("PRAGMA secure_delete=ON")  # what is forgotten is not left in a free page
        self._runs = Records(db, clock, "runs", RunRecord, {"id": "id"})
        self._approvals = Records(db, clock, "approvals", ApprovalRecord, {"id": "id"})
        key = {"order_id": "order", "run": "run", "attempt": "attempt"}
        self._receipts = Records(db, clock, "receipts", ReceiptRecord, key)
        self._instructions = Records(db, clock, "instructions", InstructionRecord, {"id": "id"})
        self._held: dict[str, OrderRecord] = {}
        self._evaluated: set[str] = set()
        self._matched: dict[str, frozenset[tuple[str, int]]] = {}  # as on the disk, of the orders that were asked for
        self._set_held = ("", 0)
        self._read_orders()

    def close(self) -> None:
        self._db.close()

    # Runs.

    def put_run(self, record: RunRecord) -> RunRecord:
        """Write *record* as the next revision of its run, not acked; return it so. Raises DiskFull."""
        with self._db.writing("journal.run.writing", "journal.run.written"):
            return self._runs.put(record, ended=record.state in ENDED)

    def runs(self) -> list[RunRecord]:
        return self._runs.all()

    def run(self, id: str) -> RunRecord | None:
        return self._runs.one(id)

    def live_runs(self) -> list[RunRecord]:
        return self._runs.all("NOT ended")

    def unacked_runs(self) -> list[RunRecord]:
        return self._runs.all("NOT acked")

    def acked_run(self, id: str, revision: int) -> None:
        self._runs.acked(revision, id)

    def purge_run(self, id: str) -> None:
        """Forget what *id* said, was asked and was told; that it was stays. Open questions stay too."""
        with self._db.writing():
            kept = self.run(id)
            if kept is not None:
                self._db.run("UPDATE runs SET record = ? WHERE id = ?", pack(replace(kept, prompt="")), id)
            self._db.run("DELETE FROM approvals WHERE run = ? AND state <> 'open'", id)
            for receipt in self._receipts.all("run = ?", id):
                if receipt.safety is not None:
                    nameless = replace(receipt, safety=replace(receipt.safety, not_saved=(), error=""))
                    self._db.run(
                        "UPDATE receipts SET record = ? WHERE order_id = ? AND run = ? AND attempt = ?",
                        *(pack(nameless), receipt.order, receipt.run, receipt.attempt),
                    )
        self._db.checkpoint()

    # Approvals.

    def open_approval(self, record: ApprovalRecord) -> ApprovalRecord:
        """Write a question that is open; one that is known already is returned as it stands. Raises DiskFull."""
        known = self.approval(record.id)
        if known is not None:
            return known
        with self._db.writing("journal.approval.writing", "journal.approval.written"):
            return self._put_approval(replace(record, state=ApprovalState.OPEN))

    def approval(self, id: str) -> ApprovalRecord | None:
        return self._approvals.one(id)

    def open_approvals(self) -> list[ApprovalRecord]:
        return self._approvals.all("state = 'open'")

    def unacked_approvals(self) -> list[ApprovalRecord]:
        """Those whose last word the server has not acknowledged, open or not."""
        return self._approvals.all("NOT acked")

    def undelivered_approvals(self) -> list[ApprovalRecord]:
        """Those with a decision in force that the agent has not been seen to take."""
        decided = self._approvals.all("state IN ('approved', 'denied')")
        return [record for record in decided if record.application is Application.ACCEPTED]

    def accept_decision(
        self, approval_id: str, decision_id: str, verdict: Verdict, by: str, input_json: str = "", message: str = ""
    ) -> Accepted | Refused:
        """Write the first decision of an open question; any other is refused, the same one again is answered alike.

        Nothing may act on a decision before this has returned Accepted. Raises DiskFull.
        """
        with self._db.writing("journal.decision.writing", "journal.decision.written"):
            found = self.approval(approval_id)
            if found is None:
                return Refused(f"this machine holds no question {approval_id}")
            if found.decision_id and found.decision_id == decision_id:
                return Accepted(found, again=True)
            try:
                state = questions.after(approval_id, found.state, BY_VERDICT[verdict])
            except IllegalTransition:
                return Refused(found.why_not(), found)
            return Accepted(
                self._put_approval(
                    replace(
                        found,
                        state=state,
                        decision_id=decision_id,
                        verdict=verdict,
                        decided_by=by,
                        decision_input_json=input_json,
                        message=message,
                        application=Application.ACCEPTED,
                    )
                )
            )

    def settle(self, approval_id: str, state: ApprovalState, reason: str) -> ApprovalRecord:
        """End an open question without a decision: expired or withdrawn. Raises IllegalTransition, NoSuch, DiskFull."""
        if state not in (ApprovalState.EXPIRED, ApprovalState.WITHDRAWN):
            raise ValueError(f"a question is settled as expired or withdrawn, not as {state}")
        with self._db.writing("journal.approval.writing", "journal.approval.written"):
            found = self._known(approval_id)
            after = questions.after(approval_id, found.state, ApprovalEvent(state.value))
            return self._put_approval(replace(found, state=after, reason=reason))

    def applied(self, approval_id: str, application: Application, reason: str = "") -> ApprovalRecord:
        """Write what became of a decision at the agent. Raises IllegalTransition while there is none, NoSuch, DiskFull."""
        with self._db.writing("journal.approval.writing", "journal.approval.written"):
            found = self._known(approval_id)
            if found.verdict is None:
                raise IllegalTransition("approval", approval_id, found.state, application)
            return self._put_approval(replace(found, application=application, reason=reason or found.reason))

    def acked_approval(self, id: str, revision: int) -> None:
        self._approvals.acked(revision, id)

    # Orders and receipts.

    def hold_orders(
        self, store_epoch: str, generation: int, orders: Iterable[OrderRecord], meets: Meets = MEETS_NOTHING
    ) -> list[OrderRecord]:
        """Add *orders* to those held, by id, with the (run, attempt) that each *meets* here; return those that this changed.

        A lift never un-lifts, and an order that is not among them is kept: the store may have lost it. Raises DiskFull.
        """
        held, changed = dict(self._held), []
        for order in orders:
            known = held.get(order.id)
            if known is None or (order.lifted and not known.lifted):
                held[order.id] = order
                changed.append(order)
        epoch, last = self._set_held
        newer = store_epoch != epoch or generation > last
        if not (changed or newer or meets):
            return []
        with self._db.writing("journal.order.writing", "journal.order.written"):
            for order in changed:
                self._db.run(
                    "INSERT INTO orders (id, record, lifted_ms) VALUES (?, ?, ?)"
                    " ON CONFLICT (id) DO UPDATE SET record = excluded.record, lifted_ms = excluded.lifted_ms",
                    *(order.id, pack(order), self._clock.wall_ms() if order.lifted else None),
                )
            for id, met in meets.items():
                self._evaluate(id, met)
            if store_epoch != epoch:
                self._set("store_epoch", store_epoch)
            if newer:
                self._set("generation", str(generation))
        # What is remembered follows the disk, never the other way round.
        self._held = held
        self._evaluated.update(meets)
        if newer:
            self._set_held = (store_epoch, generation)
        return changed

    def orders(self) -> list[OrderRecord]:
        """Every order held, tombstones included, the oldest first."""
        return list(self._held.values())

    def orders_held(self) -> tuple[str, int]:
        """Return the store epoch and generation of the newest set that was taken; ("", 0) before the first."""
        return self._set_held

    def evaluate_order(self, order_id: str, matches: Iterable[tuple[str, int]]) -> None:
        """Write that the order was held against this machine's runs and met these (run, attempt). Raises DiskFull."""
        with self._db.writing("journal.order.writing", "journal.order.written"):
            self._evaluate(order_id, matches)
        self._evaluated.add(order_id)

    def evaluated(self, order_id: str) -> bool:
        """Whether an order has been held against this machine's runs; one without hold has then had its moment."""
        return order_id in self._evaluated

    def matches(self, order_id: str) -> frozenset[tuple[str, int]]:
        """The (run, attempt) that the order has met."""
        if order_id not in self._matched:
            self._matched[order_id] = frozenset(
                self._db.rows("SELECT run, attempt FROM matched WHERE order_id = ?", order_id)
            )
        return self._matched[order_id]

    def put_receipt(self, record: ReceiptRecord) -> ReceiptRecord:
        """Write *record* as the next revision of its receipt, not acked; return it so. Raises DiskFull."""
        with self._db.writing("journal.receipt.writing", "journal.receipt.written"):
            self._match(record.order, [(record.run, record.attempt)])
            return self._receipts.put(record)

    def receipts(self, order_id: str | None = None) -> list[ReceiptRecord]:
        """Return those of one order, or of every order held."""
        if order_id is None:
            return self._receipts.all("order_id IN (SELECT id FROM orders)")
        return self._receipts.all("order_id = ?", order_id)

    def unacked_receipts(self) -> list[ReceiptRecord]:
        return self._receipts.all("NOT acked")

    def acked_receipt(self, order_id: str, run: str, attempt: int, revision: int) -> None:
        self._receipts.acked(revision, order_id, run, attempt)

    # Instructions.

    def take_instruction(self, id: str, kind: str, json: str) -> bool:
        """Write that the instruction has arrived; False when it had before, and must not be done again. Raises DiskFull."""
        lazily = kind == DECISION
        with self._db.writing("journal.instruction.writing", "journal.instruction.written", lazily=lazily):
            if self.instruction(id) is not None:
                return False
            record = InstructionRecord(id, kind, json)
            self._instructions.put(record, state=record.state)
        return True

    def finish_instruction(self, id: str, state: InstructionState, reason: str = "") -> InstructionRecord:
        """Write how it went, once: a later word changes nothing. Raises NoSuch, DiskFull."""
        found = self.instruction(id)
        lazily = found is not None and found.kind == DECISION
        with self._db.writing("journal.instruction.writing", "journal.instruction.written", lazily=lazily):
            if found is None:
                raise NoSuch("instruction", id)
            if found.state is not InstructionState.DELIVERED:
                return found
            return self._instructions.put(replace(found, state=state, reason=reason), state=state)

    def instruction(self, id: str) -> InstructionRecord | None:
        return self._instructions.one(id)

    def unacked_instructions(self) -> list[InstructionRecord]:
        return self._instructions.all("NOT acked")

    def unfinished_instructions(self) -> list[InstructionRecord]:
        """Those that arrived and were not done when the daemon last died."""
        return self._instructions.all("state = 'delivered'")

    def acked_instruction(self, id: str, revision: int) -> None:
        self._instructions.acked(revision, id)

    # Everything else.

    def get(self, key: str) -> str | None:
        found = self._db.row("SELECT value FROM meta WHERE key = ?", key)
        return None if found is None else str(found[0])

    def set(self, key: str, value: str) -> None:
        with self._db.writing("journal.meta.writing", "journal.meta.written"):
            self._set(key, value)

    def forget_acks(self) -> None:
        """A store that is another one needs every run again, and every receipt of an order held. Raises DiskFull."""
        with self._db.writing():
            self._db.run("UPDATE runs SET acked = 0")
            self._db.run("UPDATE receipts SET acked = 0 WHERE order_id IN (SELECT id FROM orders)")

    def trim(self, before_wall_ms: int) -> int:
        """Forget what ended, was acked and was last touched before then; orders stay. Return how many rows went."""
        self._matched.clear()
        with self._db.writing():
            return (
                self._instructions.trim(before_wall_ms, "state <> 'delivered'")
                + self._approvals.trim(before_wall_ms, "state <> 'open'")
                + self._runs.trim(before_wall_ms, "ended")
                + self._receipts.trim(before_wall_ms, "run NOT IN (SELECT id FROM runs)")
                + self._db.run(
                    "DELETE FROM matched WHERE run NOT IN (SELECT id FROM runs)"
                    " AND (order_id, run, attempt) NOT IN (SELECT order_id, run, attempt FROM receipts)"
                )
            )

    def forget_lifted(self, before_wall_ms: int) -> int:
        """Forget orders of whose lift this machine learned before then, once all their receipts are acked; return how many."""
        with self._db.writing():
            old = "SELECT id FROM orders WHERE lifted_ms < ? AND id NOT IN (SELECT order_id FROM receipts WHERE NOT acked)"
            gone = {id for (id,) in self._db.rows(old, before_wall_ms)}
            for id in gone:
                self._db.run("DELETE FROM orders WHERE id = ?", id)
                self._db.run("DELETE FROM matched WHERE order_id = ?", id)
                self._db.run("DELETE FROM receipts WHERE order_id = ?", id)
        self._held = {id: order for id, order in self._held.items() if id not in gone}
        self._evaluated -= gone
        self._matched.clear()
        return len(gone)

    def _put_approval(self, record: ApprovalRecord) -> ApprovalRecord:
        return self._approvals.put(record, run=record.run, state=record.state)

    def _match(self, order_id: str, matches: Iterable[tuple[str, int]]) -> None:
        self._matched.pop(order_id, None)
        self._db.many(
            "INSERT OR IGNORE INTO matched (order_id, run, attempt) VALUES (?, ?, ?)",
            [(order_id, run, attempt) for run, attempt in matches],
        )

    def _known(self, approval_id: str) -> ApprovalRecord:
        found = self.approval(approval_id)
        if found is None:
            raise NoSuch("approval", approval_id)
        return found

    def _evaluate(self, order_id: str, matches: Iterable[tuple[str, int]]) -> None:
        self._db.run("UPDATE orders SET evaluated = 1 WHERE id = ?", order_id)
        self._match(order_id, matches)

    def _read_orders(self) -> None:
        """Remember the orders that are on the disk: a broadcast reads them once a machine, and there is one writer."""
        rows = self._db.rows("SELECT record, evaluated FROM orders ORDER BY position")
        found = [(unpack(OrderRecord, record), bool(evaluated)) for record, evaluated in rows]
        self._held = {order.id: order for order, _ in found}
        self._evaluated = {order.id for order, evaluated in found if evaluated}
        self._set_held = (self.get("store_epoch") or "", int(self.get("generation") or 0))

    def _set(self, key: str, value: str) -> None:
        self._db.run(
            "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            *(key, value),
        )
