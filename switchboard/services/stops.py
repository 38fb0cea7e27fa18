"""Stops: standing orders that every machine holds until they are lifted, with a receipt for every run.

What a daemon brings back is a stranger's word: an order counts only with this switchboard's seal in its id, and a lift that
a machine claims never ends an order that stands here.
"""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

import structlog

from switchboard import faults
from switchboard.clock import Clock
from switchboard.domain.errors import Conflict, Forbidden, NotFound
from switchboard.domain.machine import Machine
from switchboard.domain.people import Caller, Permission
from switchboard.domain.run import FINAL, Run
from switchboard.domain.stop import REVIEW_AFTER, Order, Outcome, Receipt, Selector, Standing, standing
from switchboard.services.ports import AuditLog, Epochs, OrderJournal
from switchboard.services.presence import Presence
from switchboard.services.projection import Book, Projection
from switchboard.services.words import ident, words

log = structlog.get_logger()

LONGEST_LIST = 10_000
SETTLED_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Preview:
    runs: tuple[Run, ...]
    machines_away: tuple[str, ...]  # names; they obey at their return
    machines: int = 0  # all that would be told


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
        self._receipts = receipts
        self._projection = projection
        self._presence = presence
        self._epochs = epochs
        self._journal = journal
        self._audit = audit
        self._clock = clock
        self._seal = seal
        self._epoch = ""
        self._counted = 0
        self._looking = asyncio.Lock()
        self._looked_at = -1.0  # when the last look that is over began
        self._set: tuple[str, int, list[Order]] | None = None
        projection.listen(self._changed)

    # What people do

    def preview(self, caller: Caller, selector: Selector) -> Preview:
        """Show what an order would mean at this moment, without giving it."""
        caller.need(Permission.LOOK, "look at runs")
        selector = self._narrowed(caller, _sane(selector))
        machines = self._meant(selector)
        return Preview(
            runs=tuple(self._matching(selector)),
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
        id = self._id(selector, reason, caller.person, hold, request_id)
        if (known := await self._orders.get(id)) is not None:
            return known
        order = Order(
            id=id,
            generation=await self._count_up(),
            selector=selector,
            reason=reason,
            by=caller.person,
            issued_at=now,
            review_at=now + REVIEW_AFTER,
            hold=hold,
            expected={run.id: run.machine for run in self._matching(selector)},
        )
        self._journal.write(order)
        faults.point("service.order.journaled")
        saved = await self._orders.change(id, lambda found: order if found is None else None)
        assert saved is not None
        faults.point("service.order.saved")
        await self._audit.append(
            by=caller.person,
            via=caller.via,
            action="order.issued",
            subject=id,
            reason=reason,
            details={"selector": _plain(selector), "hold": hold, "expected": len(order.expected)},
        )
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
        generation, now = await self._count_up(), self._clock.now()

        def lifted(found: Order | None) -> Order:
            if found is None:
                raise _no_order(id)
            return found.lift(caller.person, now, reason, generation)

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
        order = self.order(id)
        latest: dict[str, Receipt] = {}
        for receipt in self._projection.receipts(id):
            if receipt.run not in latest or receipt.attempt >= latest[receipt.run].attempt:
                latest[receipt.run] = receipt
        meant = dict(order.expected)
        meant.update({receipt.run: receipt.machine for receipt in latest.values()})
        if not order.lifted:
            meant.update({run.id: run.machine for run in self._matching(order.selector) if order.hold})
        machines = {machine.id: machine for machine in self._presence.machines()}
        rows = tuple(
            Row(run, machine, self._standing(order, run, machines.get(machine), latest.get(run)), latest.get(run))
            for run, machine in sorted(meant.items())
        )
        told = self._meant(order.selector, also=meant.values())
        return OrderStatus(
            order=order,
            rows=rows,
            counts=Counter(row.standing.value for row in rows),
            machines=len(told),
            seen=sum(self._holds(order, machine) for machine in told),
            away=tuple(machine.name for machine in told if not machine.attached),
        )

    def held(self, run: Run) -> Order | None:
        """Return the oldest hold that keeps a run from starting, as far as the server can tell; the daemon has the last word."""
        holds = [o for o in self._projection.orders() if o.hold and not o.lifted and o.selector.matches(run)]
        if (
            not run.repo
        ):  # not known before its daemon has looked: an order that asks for the repo is the daemon's to judge
            holds = [o for o in holds if not (o.selector.repos or o.selector.except_repos)]
        return min(holds, key=lambda order: (order.generation, order.id), default=None)

    # What machines say

    async def received(self, machine: str, receipt: Receipt) -> None:
        """Keep a daemon's proof. Raises Forbidden for another machine's run."""
        ident("order_id", receipt.order)
        self._own(machine, receipt.run)

        def decide(found: Receipt | None) -> Receipt | None:
            if found is None:
                return receipt
            if found.machine != machine:
                raise Forbidden(f"run {receipt.run} under order {receipt.order} is another machine's")
            merged = _merged(found, receipt)
            return None if merged == found else merged

        await self._receipts.change(receipt.id, decide)

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
        self._presence.holds(machine, epoch, generation)

    # What machines hold

    def order_set(self) -> tuple[str, int, list[Order]]:
        """Return (store epoch, generation, every order, tombstones included) from memory; the same object until it changes."""
        if self._set is None:
            orders = sorted(self._projection.orders(), key=lambda order: (order.generation, order.id))
            newest = orders[-1].generation if orders else 0
            self._set = (self._epoch, max(newest, self._counted), orders)
        return self._set

    @property
    def epoch(self) -> str:
        return self._epoch

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

    async def _look(self) -> bool:
        epoch = await self._epochs.epoch()
        changed = bool(self._epoch) and epoch != self._epoch
        if changed:
            log.warning("the store came back as another one: its orders are put back", before=self._epoch, now=epoch)
        if changed or not self._epoch:
            # Before the epoch is taken over: whoever sees it, sees the orders too.
            self._counted = 0
            held = [*self._projection.orders(), *self._journal.orders()]
            await self._projection.refresh("order", *{order.id for order in held})
            await self.restore(held)
        counted = await self._epochs.generation()
        if epoch != self._epoch or counted > max(self._counted, self.order_set()[1]):
            if epoch == self._epoch:  # another replica gave an order of which no word has come: memory is read anew
                await self._projection.reread()
            self._epoch, self._counted, self._set = epoch, max(counted, self._counted), None
        return changed

    async def restore(self, orders: Iterable[Order], machine: str = "") -> None:
        """Put back what the store lost, from this replica's disk or from what *machine* holds."""
        for order in orders:
            known = self._orders.peek(order.id)
            if known is not None and _adds_nothing(known, order, trusted=not machine):
                continue
            if machine and not self._sealed(order):
                log.error(
                    "a machine brought an order that this switchboard never gave", machine=machine, order=order.id
                )
                await self._audit.append(
                    by=machine, via="daemon", action="order.forged", subject=order.id[:100], reason=order.reason[:1000]
                )
                continue
            await self._put_back(order, trusted=not machine)

    async def reassert_journal(self) -> None:
        """Put back what the store lost since the last look."""
        await self.restore(self._journal.orders())

    async def _put_back(self, order: Order, *, trusted: bool) -> None:
        generation = await self._epochs.next_generation(at_least=order.generation)
        expected = {run.id: run.machine for run in self._matching(order.selector)} if not order.lifted else {}

        def decide(found: Order | None) -> Order | None:
            if found is None:
                return replace(order, generation=generation, expected={**expected, **order.expected})
            if not trusted and order.lifted and not found.lifted:
                return None
            union = found.union(order)
            return None if union.lifted == found.lifted else replace(union, generation=generation)

        stands = await self._orders.change(order.id, decide)
        if stands is not None and stands.generation == generation:
            self._journal.write(stands)
            log.warning("an order was put back", order=order.id, lifted=stands.lifted)

    async def settle_done(self) -> None:
        """Lift orders without a hold once every run that they meant has ended with a receipt: nothing is left for them to do."""
        now = self._clock.now()
        for order in [
            o for o in self._projection.orders() if not (o.hold or o.lifted) and now - o.issued_at >= SETTLED_AFTER
        ]:
            if any(row.receipt is None or row.standing is not Standing.ENDED for row in self.status(order.id).rows):
                continue
            generation = await self._count_up()

            def lifted(found: Order | None, generation: int = generation) -> Order | None:
                if found is None or found.lifted:
                    return None
                return found.lift("switchboard", now, "every run that it meant has ended", generation)

            if (stands := await self._orders.change(order.id, lifted)) is not None:
                self._journal.write(stands)

    # Small parts

    def _changed(self, noun: str, id: str) -> None:
        if noun == "order":
            self._set = None

    async def _count_up(self) -> int:
        newest = max((order.generation for order in self._projection.orders()), default=0)
        return await self._epochs.next_generation(at_least=newest + 1)

    async def _order(self, id: str) -> Order:
        order = await self._orders.get(id)
        if order is None:
            raise _no_order(id)
        return order

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

    def _matching(self, selector: Selector) -> list[Run]:
        runs = (run for run in self._projection.runs() if run.active and selector.matches(run))
        return sorted(runs, key=lambda run: (run.machine, run.id))

    def _meant(self, selector: Selector, also: Iterable[str] = ()) -> list[Machine]:
        """Machines that an order concerns: those it names, those of its runs, or all."""
        machines = [machine for machine in self._presence.machines() if machine.standing.value == "active"]
        if selector.machines:
            return [machine for machine in machines if machine.id in selector.machines]
        if selector.runs:
            theirs = {run.machine for id in selector.runs if (run := self._projection.run(id))} | set(also)
            return [machine for machine in machines if machine.id in theirs]
        return machines

    def _holds(self, order: Order, machine: Machine) -> bool:
        return machine.orders_epoch == self._epoch and machine.orders_generation >= order.generation

    def _standing(self, order: Order, run: str, machine: Machine | None, receipt: Receipt | None) -> Standing:
        if receipt is None:
            known = self._projection.run(run)
            if known is not None and known.revision and known.state in FINAL:
                return Standing.ENDED  # by itself, in its machine's own word, before the order came
        return standing(
            receipt,
            attached=machine is not None and machine.attached,
            holds_generation=machine is not None and self._holds(order, machine),
        )

    def _own(self, machine: str, run: str) -> None:
        known = self._projection.run(run)
        if known is not None and known.machine != machine:
            raise Forbidden(f"run {run} is another machine's")

    def _id(self, selector: Selector, reason: str, by: str, hold: bool, request_id: str | None) -> str:
        """Return an id with this switchboard's seal over what the order says, so that nobody else can make one up."""
        start = self._seal(f"request {by} {request_id}") if request_id else secrets.token_hex(6)
        return f"o-{start}-{self._seal(_sealed_text(start, selector, reason, by, hold))}"

    def _sealed(self, order: Order) -> bool:
        start = order.id.removeprefix("o-").partition("-")[0]
        text = _sealed_text(start, order.selector, order.reason, order.by, order.hold)
        return secrets.compare_digest(order.id.encode(), f"o-{start}-{self._seal(text)}".encode())


def _plain(selector: Selector) -> dict[str, object]:
    return {name: value for name, value in asdict(selector).items() if value}


def _sealed_text(start: str, selector: Selector, reason: str, by: str, hold: bool) -> str:
    return json.dumps([start, _plain(selector), reason, by, hold], sort_keys=True)


def _sane(selector: Selector) -> Selector:
    for name, value in asdict(selector).items():
        if name == "all":
            continue
        for item in value[: LONGEST_LIST + 1]:
            words(name, item, 1_000, need=f"{name} holds an empty entry")
        if len(value) > LONGEST_LIST:
            words(name, "x" * (LONGEST_LIST + 1), LONGEST_LIST)
    return selector.checked()


def _adds_nothing(known: Order, order: Order, *, trusted: bool) -> bool:
    return known.lifted == order.lifted or known.lifted or not trusted


def _expecting(found: Order | None, news: dict[str, str]) -> Order | None:
    if found is None or all(run in found.expected for run in news):
        return None
    return replace(found, expected={**news, **found.expected})


def _merged(found: Receipt, said: Receipt) -> Receipt:
    """Receipts may come twice and in any order: what was seen empty stays empty, what was saved stays saved."""
    if found.outcome is Outcome.ENDED and said.outcome is not Outcome.ENDED:
        return found
    if said.safety is None and found.safety is not None:
        said = replace(said, safety=found.safety)
    return replace(said, at=found.at) if replace(said, at=found.at) == found else said


def _no_order(id: str) -> NotFound:
    return NotFound(f"no order {id[:100]!r}: see `switchboard stop list`")
