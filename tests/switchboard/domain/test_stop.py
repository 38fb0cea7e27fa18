"""What must hold of orders: they add up in any order, a lift is never undone, and both ends select the same runs."""

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.orders import Candidate, matches
from switchboard.domain.errors import IllegalTransition, Invalid
from switchboard.domain.run import Run
from switchboard.domain.stop import Order, Outcome, Receipt, Selector, Standing, standing
from switchboard.rpc import outward, translate

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ORDER = Order(
    id="o-1",
    generation=3,
    selector=Selector(all=True),
    reason="x",
    by="kim",
    issued_at=NOON,
    review_at=NOON + timedelta(hours=8),
)

few = st.lists(st.sampled_from(["a", "b", ""]), max_size=2, unique=True).map(tuple)
selectors = st.builds(
    Selector,
    all=st.booleans(),
    repos=few,
    machines=few,
    owners=few,
    runs=few,
    agents=few,
    except_repos=few,
    except_runs=few,
)
word = st.sampled_from(["a", "b", "c", ""])
runs = st.builds(
    lambda id, machine, repo, owner, agent: Run(
        id=id, machine=machine, repo=repo, owner=owner, agent=agent, started_at=NOON, changed_at=NOON
    ),
    word,
    word,
    word,
    word,
    word,
)


@given(selectors, runs)
def test_a_daemon_that_reads_the_selector_off_the_wire_means_the_same_runs(selector, run):
    order = replace(ORDER, selector=selector)
    wire = outward.order_set_to("e", 3, [order]).orders[0].selector
    received = {field.name: getattr(wire, field.name) for field in wire.DESCRIPTOR.fields}

    there = matches(received, Candidate(run.id, run.repo, run.machine, run.owner, run.agent))

    assert there is selector.matches(run)


@given(selectors, runs)
def test_what_is_excepted_is_never_meant_and_nothing_named_means_nothing(selector, run):
    if run.id in selector.except_runs or run.repo in selector.except_repos:
        assert not selector.matches(run)
    try:
        selector.checked()
    except Invalid:
        assert not selector.matches(run)


@given(selectors, runs, st.sampled_from(["repos", "machines", "owners", "agents", "runs"]))
def test_naming_more_kinds_of_things_never_means_more_runs(selector, run, kind):
    wider = replace(selector, **{kind: ()})
    named = any(asdict(wider)[name] for name in ("repos", "machines", "owners", "agents", "runs"))
    if selector.matches(run) and asdict(selector)[kind] and named:
        assert wider.matches(run)


@given(selectors)
def test_an_order_is_the_same_after_a_trip_over_the_wire(selector):
    order = replace(ORDER, selector=selector)
    assert translate.order_of(outward.order_set_to("e", 3, [order]).orders[0]) == order


copies = st.lists(
    st.builds(
        lambda generation, lifted: (
            replace(ORDER, generation=generation, lifted=True, lifted_by="ana")
            if lifted
            else replace(ORDER, generation=generation)
        ),
        st.integers(1, 6),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@given(copies, st.data())
def test_a_lift_is_never_undone_however_copies_are_put_together(found, data):
    total = reduce(Order.union, data.draw(st.permutations(found)))
    assert total.lifted == any(order.lifted for order in found)
    generations = [order.generation for order in found if order.lifted is total.lifted]
    assert total.generation == max(generations)


def test_a_lift_happens_once():
    lifted = ORDER.lift("ana", NOON, "over", 4)
    with pytest.raises(IllegalTransition):
        lifted.lift("ana", NOON, "again", 5)
    assert lifted.generation > ORDER.generation


@given(st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, *Outcome]))
def test_nothing_is_shown_as_ended_without_a_receipt_that_says_so(over, attached, holds, outcome):
    receipt = outcome and Receipt(order="o", run="r", machine="m", attempt=1, outcome=outcome, at=NOON)
    shown = standing(receipt, over=over, attached=attached, holds_generation=holds)
    assert (shown is Standing.ENDED) == (outcome is Outcome.ENDED)
    assert (shown is Standing.UNPROVEN) == (over and receipt is None)
    if receipt is None and not over and not attached:
        assert shown is Standing.UNREACHABLE
