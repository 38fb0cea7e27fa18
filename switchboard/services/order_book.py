"""Every order that is known here, as one set, and what puts it back when the store has lost a part or all of it.

What a daemon brings back is a stranger's word: an order counts only with this switchboard's seal in its id, a lift only with the
seal that was given with it, and an order whose lift cannot be proven stands.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from datetime import datetime

import structlog

from switchboard.clock import Clock
from switchboard.domain.run import Run
from switchboard.domain.stop import Order, Selector
from switchboard.services.book import Book
from switchboard.services.ports import AuditLog, Epochs, OrderJournal
from switchboard.services.projection import Projection

log = structlog.get_logger()

OrderSet = tuple[str, int, list[Order]]
Mark = tuple[
    str, int
]  # a store epoch, and how many changes of orders had been learned here: how much a machine was told
TOLD_NOTHING: Mark = ("", 0)


class OrderBook:
    def __init__(
        self,
        *,
        orders: Book[Order],
        projection: Projection,
        epochs: Epochs,
        journal: OrderJournal,
        audit: AuditLog,
        clock: Clock,
        seal: Callable[[str], str],
    ) -> None:
        self._orders = orders
        self._projection = projection
        self._epochs = epochs
        self._journal = journal
        self._audit = audit
        self._clock = clock
        self._seal = seal
        self.epoch = ""  # of the store whose orders these are
        self._counted = 0
        self._looking = asyncio.Lock()
        self._looked_at = -1.0  # when the last look that is over began
        self._set: OrderSet | None = None
        self._learned: dict[str, int] = {}  # order: which change, counted here, was the last that memory learned of it
        self._changes = 0
        projection.listen(self._changed)

    def order_set(self) -> OrderSet:
        """Return (store epoch, generation, every order, tombstones included) from memory; the same object until it changes."""
        if self._set is None:
            orders = sorted(self._projection.orders(), key=lambda order: (order.generation, order.id))
            newest = orders[-1].generation if orders else 0
            self._set = (self.epoch, max(newest, self._counted), orders)
        return self._set

    def mark(self) -> Mark:
        return self.epoch, self._changes

    def news(self, told: Mark) -> OrderSet:
        """Return the order set with those orders only that memory learned of since *told*; all of them where the store is another.

        By what was learned, not by generation: another replica's order may come to be known here after a younger one.
        """
        epoch, generation, orders = self.order_set()
        if told[0] != epoch:
            return epoch, generation, orders
        return epoch, generation, [order for order in orders if self._learned.get(order.id, 0) > told[1]]

    async def next_generation(self) -> int:
        newest = max((order.generation for order in self._projection.orders()), default=0)
        return await self._epochs.next_generation(at_least=newest + 1)

    def matching(self, selector: Selector) -> list[Run]:
        """Return the active runs that a selector means at this moment."""
        runs = (run for run in self._projection.runs() if run.active and selector.matches(run))
        return sorted(runs, key=lambda run: (run.machine, run.id))

    async def refresh(self) -> bool:
        """Look at the store's identity and at orders that memory lacks; say whether the store is another one than before.

        Many may ask at once: a look that began after they did serves them all.
        """
        asked_at = asyncio.get_running_loop().time()
        async with self._looking:
            if self._looked_at >= asked_at:
                return False
            began = asyncio.get_running_loop().time()
            changed = await self._look()
            self._looked_at = began
            return changed

    async def restore(self, orders: Iterable[Order], machine: str = "", epoch: str = "") -> None:
        """Put back what the store lost, from this replica's disk or from what *machine* holds of the store with *epoch*."""
        for order in orders:
            known = self._orders.peek(order.id)
            if known is not None and (known.lifted or not order.lifted):
                continue
            # What a machine learned of this very store was here once, and what was forgotten with its time stays so.
            if (
                known is None
                and order.lifted
                and (order.outlived(self._clock.now()) or (machine and epoch == self.epoch))
            ):
                continue
            proven = order if not machine else await self._proven(order, machine, standing=known is not None)
            if proven is not None:
                await self._put_back(proven)

    async def reassert_journal(self) -> None:
        """Put back what the store lost since the last look."""
        await self.restore(self._journal.orders())

    def id_for(self, selector: Selector, reason: str, by: str, hold: bool, request_id: str | None) -> str:
        """Return an id with this switchboard's seal over what the order says, so that nobody else can make one up."""
        start = self._seal(f"request {by} {request_id}") if request_id else secrets.token_hex(6)
        return f"o-{start}-{self._seal(_said(start, selector, reason, by, hold))}"

    def lifted(self, order: Order, by: str, at: datetime, reason: str, generation: int) -> Order:
        """Return the tombstone, sealed. Raises IllegalTransition when it was lifted before."""
        tombstone = order.lift(by, at, reason, generation)
        return replace(tombstone, lift_seal=self._seal(_lift(tombstone)))

    async def _proven(self, order: Order, machine: str, *, standing: bool) -> Order | None:
        """Return what of a machine's copy of an order can be believed, None for nothing that is news; *standing*: it is known here."""
        if not self._sealed(order):
            log.error("a machine brought an order that this switchboard never gave", machine=machine, order=order.id)
            await self._note(machine, "order.forged", order, order.reason)
            return None
        if not order.lifted or secrets.compare_digest(order.lift_seal.encode(), self._seal(_lift(order)).encode()):
            return order
        if standing:
            return None
        log.error("a machine brought a lift that this switchboard never gave", machine=machine, order=order.id)
        await self._note(machine, "order.lift-forged", order, f"it says that {order.lifted_by} lifted it; it stands")
        return replace(order, lifted=False, lifted_by="", lift_reason="", lift_seal="")

    async def _note(self, machine: str, action: str, order: Order, reason: str) -> None:
        await self._audit.append(by=machine, via="daemon", action=action, subject=order.id[:100], reason=reason[:1000])

    async def _look(self) -> bool:
        epoch = await self._epochs.epoch()
        changed = bool(self.epoch) and epoch != self.epoch
        if changed:
            log.warning("the store came back as another one: its orders are put back", before=self.epoch, now=epoch)
        if changed or not self.epoch:
            # Before the epoch is taken over: whoever sees it, sees the orders too.
            self._counted = 0
            held = [*self._projection.orders(), *self._journal.orders()]
            await self._projection.refresh("order", *{order.id for order in held})
            await self.restore(held)
        counted = await self._epochs.generation()
        if epoch != self.epoch or counted > max(self._counted, self.order_set()[1]):
            if epoch == self.epoch:  # another replica gave an order of which no word has come: memory is read anew
                await self._projection.reread()
            self.epoch, self._counted, self._set = epoch, max(counted, self._counted), None
        return changed

    async def _put_back(self, order: Order) -> None:
        if order.lifted and order.lifted_at is None:
            order = replace(order, lifted_at=self._clock.now())  # as far as this server knows
        generation = await self._epochs.next_generation(at_least=order.generation)
        expected = {} if order.lifted else {run.id: run.machine for run in self.matching(order.selector)}

        def decide(found: Order | None) -> Order | None:
            if found is None:
                return replace(order, generation=generation, expected={**expected, **order.expected})
            union = found.union(order)
            if union.lifted == found.lifted:
                return None
            return replace(union, generation=generation, expected={**order.expected, **found.expected})

        stands = await self._orders.change(order.id, decide)
        if stands is not None and stands.generation == generation:
            self._journal.write(stands)
            log.warning("an order was put back", order=order.id, lifted=stands.lifted)

    def _changed(self, noun: str, id: str) -> None:
        if noun == "order":
            self._set = None
            self._changes += 1
            if self._projection.order(id) is None:
                self._learned.pop(id, None)
            else:
                self._learned[id] = self._changes

    def _sealed(self, order: Order) -> bool:
        start = order.id.removeprefix("o-").partition("-")[0]
        text = _said(start, order.selector, order.reason, order.by, order.hold)
        return secrets.compare_digest(order.id.encode(), f"o-{start}-{self._seal(text)}".encode())


def plain(selector: Selector) -> dict[str, object]:
    """Return what a selector names, without what it leaves empty."""
    return {name: value for name, value in asdict(selector).items() if value}


def _lift(order: Order) -> str:
    return json.dumps(["lift", order.id, order.lifted_by, order.lift_reason])


def _said(start: str, selector: Selector, reason: str, by: str, hold: bool) -> str:
    return json.dumps([start, plain(selector), reason, by, hold], sort_keys=True)
