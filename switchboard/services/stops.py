"""Stops, as people give, watch and lift them: standing orders that every machine holds until they are lifted."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

import structlog

from switchboard import faults
from switchboard.clock import Clock
from switchboard.domain.errors import Conflict, Forbidden, NotFound
from switchboard.domain.people import Caller, Permission
from switchboard.domain.run import FINAL, Run
from switchboard.domain.stop import REVIEW_AFTER, Order, Receipt, Selector, Standing
from switchboard.services.book import Book
from switchboard.services.order_book import OrderBook, plain
from switchboard.services.ports import AuditLog, Epochs, OrderJournal
from switchboard.services.presence import Presence
from switchboard.services.projection import Projection
from switchboard.services.proofs import LONGEST_LIST, OrderStatus, Proofs
from switchboard.services.words import words

log = structlog.get_logger()

SETTLED_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Preview:
    runs: tuple[Run, ...]
    machines_away: tuple[str, ...]  # names; they obey at their return
    machines: int = 0  # all that would be told


class Stops:
    def __init__(
        self,
        *,
        orders: Book[Order],
        receipts: Book[Receipt],
        projection: Projection,
        presence: Presence,
        epochs: Epochs,
        journal: OrderJournal,
        audit: AuditLog,
        clock: Clock,
        seal: Callable[[str], str],
    ) -> None:
        self._orders = orders
        self._projection = projection
        self._journal = journal
        self._audit = audit
        self._clock = clock
        self._book = OrderBook(
            orders=orders,
            projection=projection,
            epochs=epochs,
            journal=journal,
            audit=audit,
            clock=clock,
            seal=seal,
        )
        self._proofs = Proofs(
            orders=orders, receipts=receipts, book=self._book, projection=projection, presence=presence
        )
        # What machines hold and prove.
        self.order_set = self._book.order_set
        self.order_news = self._book.news
        self.order_mark = self._book.mark
        self.refresh = self._book.refresh
        self.restore = self._book.restore
        self.reassert_journal = self._book.reassert_journal
        self.received = self._proofs.received
        self.forget_names = self._proofs.forget_names
        self.seen = self._proofs.seen

    # What people do

    def preview(self, caller: Caller, selector: Selector) -> Preview:
        """Show what an order would mean at this moment, without giving it."""
        caller.need(Permission.LOOK, "look at runs")
        selector = self._narrowed(caller, _sane(selector))
        machines = self._proofs.told(selector)
        return Preview(
            runs=tuple(self._book.matching(selector)),
            machines_away=tuple(m.name for m in machines if not m.attached),
            machines=len(machines),
        )

    async def issue(
        self,
        caller: Caller,
        selector: Selector,
        reason: str,
        *,
        hold: bool = True,
        request_id: str | None = None,
    ) -> Order:
        """Give an order. It is on this replica's disk and in the store when this returns. The same *request_id* gives it once."""
        caller.need(Permission.STOP, "stop runs")
        reason = words("reason", reason, need="say why: everybody who is stopped or held back reads it")
        selector = self._narrowed(caller, _sane(selector))
        now = self._clock.now()
        id = self._book.id_for(selector, reason, caller.person, hold, request_id)
        if (known := await self._orders.get(id)) is not None:
            await self._note_issued(caller, known)  # the server that gave it may have died before it did
            return known
        order = Order(
            id=id,
            generation=await self._book.next_generation(),
            selector=selector,
            reason=reason,
            by=caller.person,
            issued_at=now,
            review_at=now + REVIEW_AFTER,
            hold=hold,
            expected={run.id: run.machine for run in self._book.matching(selector)},
        )
        self._journal.write(order)
        faults.point("service.order.journaled")
        saved = await self._orders.change(id, lambda found: order if found is None else None)
        assert saved is not None
        faults.point("service.order.saved")
        await self._note_issued(caller, saved)
        return saved

    async def stop_run(self, caller: Caller, run: str, reason: str) -> Order:
        """Stop one run, without a hold: it may be resumed."""
        known = self._projection.run(run)
        if known is None:
            raise NotFound(f"no run {run[:100]!r}: see `switchboard runs --all`")
        if known.state in FINAL:
            raise Conflict(f"run {run} is {known.state} already", state=known.state)
        if caller.machine and known.machine != caller.machine:
            raise Forbidden(f"this token may only stop runs of its own machine, and {run} is on another")
        return await self.issue(caller, Selector(runs=(run,)), reason, hold=False)

    async def lift(self, caller: Caller, id: str, reason: str) -> Order:
        """Lift an order: a tombstone that every machine keeps. Its author may, too, but never by a token."""
        order = await self._order(id)
        self._need_lift(caller, order, "lift a stop order")
        reason = words("reason", reason, need="say why it is lifted: the record keeps it")
        generation, now = await self._book.next_generation(), self._clock.now()

        def lifted(found: Order | None) -> Order:
            if found is None:
                raise _no_order(id)
            return self._book.lifted(found, caller.person, now, reason, generation)

        return await self._rewrite(caller, "order.lifted", id, reason, lifted)

    async def extend(self, caller: Caller, id: str, until: datetime) -> Order:
        """Move the moment at which the author of a hold is asked whether it is still needed."""
        order = await self._order(id)
        self._need_lift(caller, order, "extend a stop order")

        def extended(found: Order | None) -> Order:
            if found is None:
                raise _no_order(id)
            if found.lifted:
                raise Conflict(f"order {id} is lifted, so it has no review time")
            return replace(found, review_at=until)

        return await self._rewrite(caller, "order.extended", id, until.isoformat(), extended)

    def order(self, id: str) -> Order:
        order = self._projection.order(id)
        if order is None:
            raise _no_order(id)
        return order

    def orders(self) -> list[Order]:
        """All orders, newest first."""
        return sorted(self._projection.orders(), key=lambda order: (order.issued_at, order.id), reverse=True)

    def review_due(self, order: Order) -> bool:
        """Say whether the author of a hold should be asked to extend or lift it."""
        return order.hold and not order.lifted and self._clock.now() >= order.review_at

    def status(self, id: str) -> OrderStatus:
        """Show where every run stands under an order, and which machines have it. From memory."""
        return self._proofs.status(self.order(id))

    def held(self, run: Run) -> Order | None:
        """Return the oldest hold that keeps a run from starting, as far as the server can tell; the daemon has the last word."""
        holds = [o for o in self._projection.orders() if o.hold and not o.lifted and o.selector.matches(run)]
        if (
            not run.repo
        ):  # not known before its daemon has looked: an order that asks for the repo is the daemon's to judge
            holds = [o for o in holds if not (o.selector.repos or o.selector.except_repos)]
        return min(holds, key=lambda order: (order.generation, order.id), default=None)

    def overtook(self, run: str) -> tuple[str, ...]:
        """Return the orders without a hold that mean *run*, the oldest first: a start that is not taken yet must not begin it."""
        meant = [o for o in self._projection.orders() if run in o.expected and not (o.hold or o.lifted)]
        return tuple(order.id for order in sorted(meant, key=lambda order: (order.generation, order.id)))

    # What time does

    async def settle_done(self) -> None:
        """Lift orders without a hold once every run that they meant has ended with a receipt: nothing is left for them to do."""
        now = self._clock.now()
        for order in [
            o for o in self._projection.orders() if not (o.hold or o.lifted) and now - o.issued_at >= SETTLED_AFTER
        ]:
            if any(row.receipt is None or row.standing is not Standing.ENDED for row in self.status(order.id).rows):
                continue
            generation = await self._book.next_generation()

            def lifted(found: Order | None, generation: int = generation) -> Order | None:
                if found is None or found.lifted:
                    return None
                return self._book.lifted(found, "switchboard", now, "every run that it meant has ended", generation)

            if (stands := await self._orders.change(order.id, lifted)) is not None:
                self._journal.write(stands)

    async def forget_lifted(self) -> None:
        """Forget orders that were lifted so long ago that nobody can bring them back standing, and their receipts."""
        now = self._clock.now()
        for old in [order for order in self._projection.orders() if order.outlived(now)]:
            await self._proofs.forget(old.id)
            await self._orders.delete(old.id)
        self._journal.forget([order.id for order in self._journal.orders() if order.outlived(now)])

    # Small parts

    async def _order(self, id: str) -> Order:
        order = await self._orders.get(id)
        if order is None:
            raise _no_order(id)
        return order

    async def _note_issued(self, caller: Caller, order: Order) -> None:
        """Put an order into the audit unless it is there."""
        await self._audit.append(
            by=order.by,
            via=caller.via,
            action="order.issued",
            subject=order.id,
            reason=order.reason,
            details={"selector": plain(order.selector), "hold": order.hold, "expected": len(order.expected)},
            once=order.id,
        )

    async def _rewrite(
        self, caller: Caller, action: str, id: str, reason: str, decide: Callable[[Order | None], Order]
    ) -> Order:
        order = await self._orders.change(id, decide)
        assert order is not None
        faults.point("service.order.saved")
        self._journal.write(order)
        faults.point("service.order.journaled")
        await self._audit.append(by=caller.person, via=caller.via, action=action, subject=id, reason=reason)
        return order

    def _need_lift(self, caller: Caller, order: Order, to: str) -> None:
        if order.by == caller.person and caller.via in ("session", "password"):
            return
        caller.need(Permission.LIFT, to)

    def _narrowed(self, caller: Caller, selector: Selector) -> Selector:
        if not caller.machine:
            return selector
        if selector.machines and caller.machine not in selector.machines:
            raise Forbidden("this token may only stop runs of its own machine")
        return replace(selector, machines=(caller.machine,))


def _sane(selector: Selector) -> Selector:
    for name, value in asdict(selector).items():
        if name == "all":
            continue
        for item in value[: LONGEST_LIST + 1]:
            words(name, item, 1_000, need=f"{name} holds an empty entry")
        if len(value) > LONGEST_LIST:
            words(name, "x" * (LONGEST_LIST + 1), LONGEST_LIST)
    return selector.checked()


def _no_order(id: str) -> NotFound:
    return NotFound(f"no order {id[:100]!r}: see `switchboard stop list`")
