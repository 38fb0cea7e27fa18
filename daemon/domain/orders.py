"""Which runs a standing order means. The server's preview and this machine's judgement are the same few lines."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from daemon.domain.facts import OrderRecord, RunRecord

LISTS = ("repos", "machines", "owners", "runs", "agents", "except_repos", "except_runs")


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a selector looks at."""

    run: str
    repo: str
    machine: str
    owner: str
    agent: str


def candidate(run: RunRecord, machine: str) -> Candidate:
    return Candidate(run.id, run.repo, machine, run.owner, run.agent)


def matches(selector: Mapping[str, Any], of: Candidate) -> bool:
    """Tell whether *selector* means this run. Empty lists do not narrow; one that names nothing matches nothing."""
    wanted = {name: tuple(selector.get(name) or ()) for name in LISTS}
    if of.run in wanted["except_runs"] or of.repo in wanted["except_repos"]:
        return False
    narrowing = (
        (wanted["repos"], of.repo),
        (wanted["machines"], of.machine),
        (wanted["owners"], of.owner),
        (wanted["runs"], of.run),
        (wanted["agents"], of.agent),
    )
    if not any(names for names, _ in narrowing):
        return bool(selector.get("all")) or bool(wanted["except_repos"])
    return all(not names or value in names for names, value in narrowing)


def holding(orders: Iterable[OrderRecord], of: Candidate) -> OrderRecord | None:
    """Return the oldest hold that keeps this run from starting."""
    holds = [o for o in orders if o.hold and not o.lifted and matches(o.selector, of)]
    return min(holds, key=lambda o: (o.generation, o.id), default=None)


def held_sentence(order: OrderRecord) -> str:
    reason = order.reason or "no reason given"
    return f"held by order {order.id} of {order.by}: {reason}; {order.by} or an incident lead can lift it"


def stop_sentence(order: OrderRecord) -> str:
    return f"stopped by order {order.id} of {order.by}: {order.reason or 'no reason given'}"
