"""What machines prove of orders: who has which on its disk, which runs it means, and the receipt of every run that it ended."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from switchboard.domain.errors import Forbidden
from switchboard.domain.machine import Machine
from switchboard.domain.machine import Standing as MachineStanding
from switchboard.domain.run import FINAL
from switchboard.domain.stop import Order, Outcome, Receipt, Selector, Standing, standing
from switchboard.services.book import Book
from switchboard.services.order_book import OrderBook
from switchboard.services.presence import Presence
from switchboard.services.projection import Projection
from switchboard.services.words import ident

LONGEST_LIST = 10_000


@dataclass(frozen=True, slots=True)
class Row:
    run: str
    machine: str
    standing: Standing
    receipt: Receipt | None


@dataclass(frozen=True, slots=True)
class OrderStatus:
    order: Order
    rows: tuple[Row, ...]
    counts: Mapping[str, int]  # by standing
    machines: int
    seen: int  # machines that have the order on their disk
    away: tuple[str, ...]  # names


@dataclass(frozen=True, slots=True)
class Match:
    """Runs of one machine that it says an order means."""

    order: str
    runs: tuple[str, ...]


class Proofs:
    def __init__(
        self,
        *,
        orders: Book[Order],
        receipts: Book[Receipt],
        book: OrderBook,
        projection: Projection,
        presence: Presence,
    ) -> None:
        self._orders = orders
        self._receipts = receipts
        self._book = book
        self._projection = projection
        self._presence = presence

    async def received(self, machine: str, receipt: Receipt) -> None:
        """Keep a daemon's proof. Raises Forbidden for another machine's run."""
        ident("order_id", receipt.order)
        self._own(machine, receipt.run)
        run = self._projection.run(receipt.run)
        if run is not None and run.purged:
            receipt = receipt.unnamed()

        def decide(found: Receipt | None) -> Receipt | None:
            if found is None:
                return receipt
            if found.machine != machine:
                raise Forbidden(f"run {receipt.run} under order {receipt.order} is another machine's")
            return merged(found, receipt)

        await self._receipts.change(receipt.id, decide)

    async def forget_names(self, run: str) -> None:
        """Forget which files of *run* were not saved; its receipts stay."""
        for receipt in [r for r in self._projection.all("receipt") if r.run == run]:
            await self._receipts.change(receipt.id, lambda found: found.unnamed() if found else None)

    async def forget(self, order: str) -> None:
        """Forget the receipts of an order."""
        for receipt in self._projection.receipts(order):
            await self._receipts.delete(receipt.id)

    async def seen(self, machine: str, epoch: str, generation: int, matches: Sequence[Match]) -> None:
        """Note that a machine has the orders on its disk, and which of its runs they mean."""
        self._presence.holds(machine, epoch, generation)
        for match in matches[:LONGEST_LIST]:
            order = self._projection.order(match.order)
            news = {run: machine for run in match.runs[:LONGEST_LIST] if order and run not in order.expected}
            for run in news:
                ident("run_id", run)
                self._own(machine, run)
            if news:
                await self._orders.change(match.order, lambda found, news=news: _expecting(found, news))  # type: ignore[misc]

    def status(self, order: Order) -> OrderStatus:
        """Show where every run stands under an order, and which machines have it. From memory."""
        latest: dict[str, Receipt] = {}
        for receipt in self._projection.receipts(order.id):
            if receipt.run not in latest or receipt.attempt >= latest[receipt.run].attempt:
                latest[receipt.run] = receipt
        meant = {**order.expected, **{receipt.run: receipt.machine for receipt in latest.values()}}
        if order.hold and not order.lifted:
            meant.update({run.id: run.machine for run in self._book.matching(order.selector)})
        machines = {machine.id: machine for machine in self._presence.machines()}
        rows = tuple(
            Row(run, machine, self._standing(order, run, machines.get(machine), latest.get(run)), latest.get(run))
            for run, machine in sorted(meant.items())
            if not self._over_before(order, run, latest.get(run))
        )
        told = self.told(order.selector, also=meant.values())
        return OrderStatus(
            order=order,
            rows=rows,
            counts=Counter(row.standing.value for row in rows),
            machines=len(told),
            seen=sum(self._holds(order, machine) for machine in told),
            away=tuple(machine.name for machine in told if not machine.attached),
        )

    def told(self, selector: Selector, also: Iterable[str] = ()) -> list[Machine]:
        """Return the machines that an order concerns: those it names, those of the runs it names, or all."""
        machines = [machine for machine in self._presence.machines() if machine.standing is MachineStanding.ACTIVE]
        if selector.machines:
            return [machine for machine in machines if machine.id in selector.machines]
        if selector.runs:
            theirs = {run.machine for id in selector.runs if (run := self._projection.run(id))} | set(also)
            return [machine for machine in machines if machine.id in theirs]
        return machines

    def _holds(self, order: Order, machine: Machine) -> bool:
        return machine.orders_epoch == self._book.epoch and machine.orders_generation >= order.generation

    def _over_before(self, order: Order, run: str, receipt: Receipt | None) -> bool:
        """Whether the order did nothing to a run that was over when it was given: its machine cannot tell, and proves it anyway."""
        known = self._projection.run(run)
        over = known is not None and known.state in FINAL and known.changed_at < order.issued_at
        return over and receipt is not None and receipt.processes == 0

    def _standing(self, order: Order, run: str, machine: Machine | None, receipt: Receipt | None) -> Standing:
        known = self._projection.run(run)
        return standing(
            receipt,
            over=known is not None and known.revision > 0 and known.state in FINAL,
            attached=machine is not None and machine.attached,
            holds_generation=machine is not None and self._holds(order, machine),
        )

    def _own(self, machine: str, run: str) -> None:
        known = self._projection.run(run)
        if known is not None and known.machine != machine:
            raise Forbidden(f"run {run} is another machine's")


def merged(found: Receipt, said: Receipt) -> Receipt | None:
    """Return what two receipts add up to, None for nothing more: what was seen empty stays so, what was saved stays saved."""
    if found.outcome is Outcome.ENDED and said.outcome is not Outcome.ENDED:
        return None
    if said.safety is None and found.safety is not None:
        said = replace(said, safety=found.safety)
    return None if replace(said, at=found.at) == found else said


def _expecting(found: Order | None, news: dict[str, str]) -> Order | None:
    if found is None or all(run in found.expected for run in news):
        return None
    return replace(found, expected={**news, **found.expected})
