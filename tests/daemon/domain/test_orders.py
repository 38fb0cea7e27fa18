"""What a selector means, and that the two ends of the wire mean the same."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.facts import OrderRecord
from daemon.domain.orders import LISTS, Candidate, held_sentence, holding, matches
from switchboard.domain import stop as server
from switchboard.domain.run import Run

NAMES = ["a", "b", ""]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

selectors = st.fixed_dictionaries(
    {"all": st.booleans(), **{name: st.lists(st.sampled_from(NAMES), max_size=2) for name in LISTS}}
)
candidates = st.builds(Candidate, *[st.sampled_from(NAMES)] * 5)


def order(id: str = "o1", generation: int = 1, **more: object) -> OrderRecord:
    return OrderRecord(id, generation, **{"selector": {"all": True}, "hold": True, "by": "ana", **more})  # type: ignore[arg-type]


CANDIDATE = Candidate("r1", "example.org/shop", "m1", "ana", "claude")


@given(selectors, candidates)
def test_a_machine_judges_as_the_server_previews(selector: dict[str, object], of: Candidate) -> None:
    theirs = server.Selector(**{k: v if k == "all" else tuple(v) for k, v in selector.items()})  # type: ignore[arg-type]
    run = Run(
        id=of.run,
        machine=of.machine,
        repo=of.repo,
        owner=of.owner,
        agent=of.agent,
        started_at=NOON,
        changed_at=NOON,
    )

    assert matches(selector, of) == theirs.matches(run)


@given(candidates)
def test_a_selector_that_names_nothing_means_nothing(of: Candidate) -> None:
    assert not matches({}, of)


@given(selectors, candidates)
def test_an_exception_is_never_meant(selector: dict[str, object], of: Candidate) -> None:
    assert not matches({**selector, "except_runs": [of.run]}, of)
    assert not matches({**selector, "except_repos": [of.repo]}, of)


@given(selectors, candidates, st.sampled_from(["repos", "machines", "owners", "agents"]))
def test_narrowing_never_means_more(selector: dict[str, object], of: Candidate, name: str) -> None:
    if selector[name] or not any(selector[each] for each in LISTS if not each.startswith("except")):
        return
    narrowed = {**selector, name: ["a"]}
    assert not matches(narrowed, of) or matches(selector, of)


@pytest.mark.parametrize("not_a_hold", [{"hold": False}, {"lifted": True}, {"selector": {"repos": ["another"]}}])
def test_only_a_standing_hold_that_matches_holds(not_a_hold: dict[str, object]) -> None:
    assert holding([order(**not_a_hold)], CANDIDATE) is None


def test_who_is_held_back_is_told_by_the_oldest_hold_why_and_who_can_lift() -> None:
    found = holding([order("o2", 2), order("o1", 1, reason="incident 7")], CANDIDATE)

    assert found is not None
    assert held_sentence(found) == "held by order o1 of ana: incident 7; ana or an incident lead can lift it"
