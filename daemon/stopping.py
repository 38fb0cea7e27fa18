"""Standing orders on this machine: on the disk first, then said to be seen, then obeyed, with a receipt for every run."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

import structlog

from daemon import faults
from daemon.apart import Apart
from daemon.clock import Clock
from daemon.disk import DiskFull
from daemon.domain.content import limit_names
from daemon.domain.facts import OrderRecord, ReceiptRecord, RunRecord
from daemon.domain.instruction import Held, OrdersSeen
from daemon.domain.orders import Candidate, candidate, holding, matches, stop_sentence
from daemon.domain.run import ENDED, RunState
from daemon.journal import Journal
from daemon.process import Emptied
from daemon.reports import Reports

log = structlog.get_logger()

SAVES_AT_ONCE = 2
ENDED_LATELY_MS = 10 * 60_000  # a run that ended by itself while the order was on its way still gets its receipt
BY_ITSELF = "it had ended by itself"
NEVER_BEGUN = "the daemon stopped before it could begin"


class Live(Protocol):
    """A run that has processes, or is about to."""

    @property
    def record(self) -> RunRecord: ...

    def stop(self, order: str, sentence: str) -> None: ...


class Stops:
    def __init__(
        self,
        journal: Journal,
        apart: Apart,
        clock: Clock,
        machine: str,
        reports: Reports,
    ) -> None:
        self._journal, self._apart, self._clock, self._machine = journal, apart, clock, machine
        self._reports = reports
        self._saving = asyncio.Semaphore(SAVES_AT_ONCE)
        self.live: Callable[[], Iterable[Live]] = tuple  # set by whoever puts the daemon together
        self._unwritten: Held | None = None  # obeyed all the same while the disk is full
        self._over: deque[tuple[int, RunRecord]] = deque(maxlen=1_000)

    def held(self) -> Held:
        epoch, generation = self._journal.orders_held()
        return Held(epoch, generation, tuple(self._journal.orders()))

    def take(self, held: Held) -> None:
        """Hold *held* on the disk, say so, and stop what it means. Never waits for a process."""
        try:
            self._hold(held)
        except DiskFull as error:
            # Not said to be seen, because it would not survive a crash; but it is obeyed.
            self._reports.disk_full(str(error))
            self._unwritten = self._with_unwritten(held)
        self.enforce(say=True)

    def try_disk(self) -> None:
        """Write down what could not be written before. Raises DiskFull while it still cannot."""
        if self._unwritten is not None:
            self._hold(self._unwritten)
            self.enforce(say=True)

    def _hold(self, held: Held) -> None:
        """Write down the set and what its newcomers mean here in one go: a broadcast costs each machine one sync of its disk."""
        held = self._with_unwritten(held)
        fresh = [order for order in held.orders if not (order.lifted or self._journal.evaluated(order.id))]
        late = {order.id: self._late(order) for order in fresh}
        meets = {order.id: _met(self._due(order)) | _met(late[order.id]) for order in fresh}
        self._journal.hold_orders(held.store_epoch, held.generation, held.orders, meets)
        self._unwritten = None
        self._too_late(late)

    def _with_unwritten(self, held: Held) -> Held:
        """What follows on a stream carries only what is new: what the disk did not take before comes along."""
        earlier = self._unwritten.orders if self._unwritten is not None else ()
        newer = {order.id for order in held.orders}
        return replace(held, orders=(*(order for order in earlier if order.id not in newer), *held.orders))

    def enforce(self, *, say: bool = False) -> None:
        """Hold every order against every run, and stop those that match."""
        seen: dict[str, tuple[str, ...]] = {}
        meant: list[tuple[Live, OrderRecord]] = []
        for order in self._standing():
            due = self._due(order)
            if not order.hold and self._journal.evaluated(order.id):
                met = self._journal.matches(order.id)
                due = [live for live in due if (live.record.id, live.record.attempt) in met]
            else:
                self._meet(order, due)
            meant += [(live, order) for live in due]
            known = {run for run, _ in self._journal.matches(order.id)} | {live.record.id for live in due}
            if known:
                seen[order.id] = tuple(sorted(known))
        if say and self._unwritten is None:
            self._reports.say(OrdersSeen(*self._journal.orders_held(), seen))
        faults.point("runner.stopping")
        for live, order in meant:
            try:
                live.stop(order.id, stop_sentence(order))
            except Exception:  # a mistake with one run must not keep the others from being stopped
                log.exception("run not stopped", run=live.record.id, order=order.id)
                self._reports.alarm("stop", f"order {order.id} could not be carried out", live.record.id)

    def sentence(self, id: str) -> str:
        """Say by which order something was stopped; the switchboard may name one that is not here yet."""
        held = next((order for order in self._standing() if order.id == id), None)
        return stop_sentence(held) if held is not None else f"stopped by order {id}"

    def hold_on(self, run: RunRecord) -> OrderRecord | None:
        """Return the order that keeps *run* from starting."""
        return holding(self._standing(), self._of(run))

    def refuse(self, orders: Mapping[str, str], run: RunRecord) -> None:
        """Give the receipts of a start that *orders* (each with its sentence) kept from happening."""
        for order, why in orders.items():
            self._receipt(ReceiptRecord(order, run.id, run.attempt, "refused", reason=why))

    def receipts(self, orders: Iterable[str], run: RunRecord, emptied: Emptied, reason: str = "") -> None:
        """Give the proof of one run's end, or of what is left of it, under each of *orders*."""
        for order in orders:
            self._receipt(
                ReceiptRecord(
                    order,
                    run.id,
                    run.attempt,
                    "failed" if emptied.left else "ended",
                    emptied.grade,
                    emptied.rung,
                    emptied.took_ms,
                    emptied.processes,
                    reason,
                )
            )
        faults.point("runner.emptied")

    async def save(self, orders: Iterable[str], run: RunRecord) -> None:
        """Keep the checkout's state of a run that was stopped, and give its receipts again with it."""
        wanted = set(orders)
        async with self._saving:
            saved = await self._apart.save(run.path, run.id, run.base_commit)
        names = tuple(self._reports.masked(name) for name in limit_names(saved.not_saved, run.content))
        saved = replace(saved, not_saved=names, error=self._reports.masked(saved.error))
        for order in wanted:
            for receipt in self._journal.receipts(order):
                if (receipt.run, receipt.attempt) == (run.id, run.attempt):
                    self._receipt(replace(receipt, safety=saved))

    def ended(self, run: RunRecord) -> None:
        """*run* is over or was refused: an order that meant it and was on its way gets a receipt all the same."""
        self._over.append((self._clock.boot_ms(), run))

    def after_crash(self, run: RunRecord) -> list[OrderRecord]:
        """Return the orders that mean a run which was alive when the last daemon died."""
        found = []
        for order in self._standing():
            if not order.hold and self._journal.evaluated(order.id):
                meant = (run.id, run.attempt) in self._journal.matches(order.id)
            else:
                meant = matches(order.selector, self._of(run))
            if meant:
                found.append(order)
        return found

    def proven(self, order: str, run: RunRecord) -> bool:
        """Whether the end of *run* has its receipt under *order*."""
        given = self._journal.receipts(order)
        return any((r.run, r.attempt, r.outcome) == (run.id, run.attempt, "ended") for r in given)

    def owed(self) -> list[tuple[str, RunRecord]]:
        """Return (order, run) of what is over and met an order, and whose receipt the last daemon did not come to write."""
        found = []
        for order in self._journal.orders():
            given = {(receipt.run, receipt.attempt) for receipt in self._journal.receipts(order.id)}
            for id, attempt in sorted(self._journal.matches(order.id) - given):
                run = self._journal.run(id)
                if run is not None and run.attempt < attempt:
                    run = replace(run, attempt=attempt, state=RunState.REFUSED, reason=NEVER_BEGUN)
                if run is not None and run.attempt == attempt and run.state in ENDED:
                    found.append((order.id, run))
        return found

    def unsaved(self) -> list[tuple[set[str], RunRecord]]:
        """Return (orders, run) of the ends whose work the last daemon did not come to save."""
        found: dict[str, tuple[set[str], RunRecord]] = {}
        for order in self._journal.orders():
            for receipt in self._journal.receipts(order.id):
                run = self._journal.run(receipt.run)
                unsaved = receipt.outcome == "ended" and receipt.reason != BY_ITSELF and receipt.safety is None
                if run and unsaved and run.attempt == receipt.attempt:
                    found.setdefault(run.id, (set(), run))[0].add(order.id)
        return list(found.values())

    def _standing(self) -> list[OrderRecord]:
        orders = {order.id: order for order in self._journal.orders()}
        for order in self._unwritten.orders if self._unwritten else ():
            if order.id not in orders or not orders[order.id].lifted:
                orders[order.id] = order
        return [order for order in orders.values() if not order.lifted]

    def _due(self, order: OrderRecord) -> list[Live]:
        return [live for live in self.live() if matches(order.selector, self._of(live.record))]

    def _meet(self, order: OrderRecord, due: list[Live]) -> None:
        """Write down what *order* means here; at the first time also what had ended before it came."""
        late = [] if self._journal.evaluated(order.id) else self._late(order)
        met = _met(due) | _met(late)
        if not self._journal.evaluated(order.id) or not met <= self._journal.matches(order.id):
            try:
                self._journal.evaluate_order(order.id, met)
            except DiskFull as error:
                self._reports.disk_full(str(error))
        self._too_late({order.id: late})

    def _late(self, order: OrderRecord) -> list[RunRecord]:
        """Return the runs that ended while *order* was on its way: a while ago, or unheard of by the switchboard."""
        since = self._clock.boot_ms() - ENDED_LATELY_MS
        over = [(at, run) for at, run in self._over if matches(order.selector, self._of(run))]
        if all(at >= since for at, _ in over):
            return [run for _, run in over]
        unheard = _met(self._journal.unacked_runs())
        return [run for at, run in over if at >= since or (run.id, run.attempt) in unheard]

    def _too_late(self, late: Mapping[str, Iterable[RunRecord]]) -> None:
        for order, runs in late.items():
            for run in runs:
                if run.state is RunState.REFUSED:
                    self.refuse({order: run.reason}, run)
                else:
                    proof = ReceiptRecord(order, run.id, run.attempt, "ended", run.containment, "none")
                    self._receipt(replace(proof, reason=BY_ITSELF))

    def _receipt(self, receipt: ReceiptRecord) -> None:
        try:
            self._reports.say(self._journal.put_receipt(receipt))
        except DiskFull as error:
            self._reports.disk_full(str(error))
            self._reports.say(receipt)  # the proof itself is true, even if it cannot be kept

    def _of(self, run: RunRecord) -> Candidate:
        return candidate(run, self._machine)


def _met(runs: Iterable[Live | RunRecord]) -> set[tuple[str, int]]:
    records = (run if isinstance(run, RunRecord) else run.record for run in runs)
    return {(record.id, record.attempt) for record in records}
