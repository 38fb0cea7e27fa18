"""The list of runs, from memory: filtered, newest first, a page at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from switchboard.clock import Clock
from switchboard.domain.machine import Machine
from switchboard.domain.run import Run
from switchboard.services.presence import Presence
from switchboard.services.projection import Projection

LONGEST_PAGE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    repo: str | None = None
    machine: str | None = None  # id or name
    owner: str | None = None
    state: str | None = None
    agent: str | None = None
    all: bool = False  # ended ones too
    limit: int = 100
    after: str | None = None  # cursor of the page before


@dataclass(frozen=True, slots=True)
class RunRow:
    run: Run
    machine_name: str
    age: timedelta
    proof_age: timedelta | None  # since the run itself last proved that it lives; None: never
    reachable: bool


@dataclass(frozen=True, slots=True)
class Page:
    rows: tuple[RunRow, ...]
    next: str | None


class RunList:
    def __init__(self, *, projection: Projection, presence: Presence, clock: Clock) -> None:
        self._projection = projection
        self._presence = presence
        self._clock = clock

    def row(self, run: Run, machine: Machine | None = None) -> RunRow:
        """Return a run with what this moment makes of it."""
        now = self._clock.now()
        machine = machine or self._presence.machine(run.machine)
        proof = self._presence.proof_of_life(run)
        return RunRow(
            run=run,
            machine_name=machine.name if machine else run.machine,
            age=max(now - run.started_at, timedelta()),
            proof_age=max(now - proof, timedelta()) if proof else None,
            reachable=machine is not None and machine.attached,
        )

    def rows(self, wanted: RunFilter | None = None) -> Page:
        """List runs, newest first."""
        wanted = wanted or RunFilter()
        machines = {machine.id: machine for machine in self._presence.machines()}
        keep = _keeper(wanted, machines)
        found = sorted((run for run in self._projection.runs() if keep(run)), key=_newest_first)
        if wanted.after:
            found = [run for run in found if _cursor(run) > wanted.after]
        limit = max(1, min(wanted.limit, LONGEST_PAGE))
        page, more = found[:limit], len(found) > limit
        rows = tuple(self.row(run, machines.get(run.machine)) for run in page)
        return Page(rows, _cursor(page[-1]) if more else None)


def _keeper(wanted: RunFilter, machines: Mapping[str, Machine]) -> Callable[[Run], bool]:
    def keep(run: Run) -> bool:
        machine = machines.get(run.machine)
        return (
            (wanted.all or run.active or wanted.state == run.state)
            and wanted.repo in (None, run.repo)
            and wanted.machine in (None, run.machine, machine.name if machine else run.machine)
            and wanted.owner in (None, run.owner)
            and wanted.state in (None, run.state)
            and wanted.agent in (None, run.agent)
        )

    return keep


def _newest_first(run: Run) -> tuple[float, str]:
    return -run.started_at.timestamp(), run.id


def _cursor(run: Run) -> str:
    """Return a text that sorts as the list does: newest first."""
    return f"{9e11 - run.started_at.timestamp():020.6f}~{run.id}"
