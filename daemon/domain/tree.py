"""Which of this machine's processes belong to a run: kinship with its keeper first, then what no other run can forge."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Born = tuple[int, int]
"""A pid with its start time: the one name of a process that is never given to another."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One process, as the process table shows it."""

    pid: int
    parent: int
    session: int
    start: int
    state: str
    name: str
    group: int = 0
    gone: bool = False  # a zombie with no thread left
    fresh: bool = False  # gone, but not yet when the pass that shows it began: that may have missed a child of it
    claim: str = ""  # the run that its environment marker names, or its command line where it is a keeper

    @property
    def born(self) -> Born:
        return self.pid, self.start


@dataclass(frozen=True, slots=True)
class Home:
    """The daemon itself: it and its ancestors are never part of a run, whatever claims so."""

    pid: int
    session: int
    keepers: frozenset[Born] = frozenset()  # every keeper that this process welcomed
    started: frozenset[Born] = frozenset()  # children seen while no keeper was dead, so not orphans of one


@dataclass(frozen=True, slots=True)
class Known:
    """What the daemon knows of a run besides what processes say of themselves."""

    marker: str  # machine/run
    keeper: Born | None = None
    caged: frozenset[int] = frozenset()  # who is in its cgroup
    before: frozenset[Born] = field(default_factory=frozenset)  # seen in this tree earlier
    ours: bool = False  # this daemon welcomed its keeper
    proven: bool = False  # and has seen the tree empty: orphans that turn up are not this run's
    struck: frozenset[int] = frozenset()  # just killed, and left out of the table: their children may still be theirs
    dying: bool = False  # it was sent SIGKILL: orphans may come to the daemon while the table is read


Table = Mapping[int, Seen]


def living(table: Table, born: Born | None) -> bool:
    """Whether exactly this process lives; a recycled pid does not count."""
    if born is None:
        return False
    seen = table.get(born[0])
    return seen is not None and seen.start == born[1] and not seen.gone


def ancestors(table: Table, pid: int) -> set[int]:
    """Return *pid* and everything above it."""
    found: set[int] = set()
    while pid in table and pid not in found:
        found.add(pid)
        pid = table[pid].parent
    return found


def adopted(table: Table, home: Home) -> list[Seen]:
    """Return the daemon's children that it did not start: orphans of keepers that were killed.

    The daemon starts its own children in its own session, and a process cannot enter a session, so whoever is in another
    one and is no keeper was adopted.
    """
    return [
        seen
        for seen in table.values()
        if seen.parent == home.pid
        and seen.session not in (home.session, 0)
        and seen.born not in home.keepers
        and seen.born not in home.started
    ]


def members(table: Table, known: Known, home: Home) -> dict[int, Seen]:
    """Return the processes of a run that live, its keeper included, and those that died while the table was read.

    Where every parent that could bury them is stopped, dead or the reader itself, a table without any proves that none lived
    when the pass began: the topmost one would show as alive or as just dead.
    """
    protected = ancestors(table, home.pid) | {0, 1, 2, home.pid}
    kept = living(table, known.keeper)
    others = {born[0] for born in home.keepers if born != known.keeper and living(table, born)}
    roots: set[int] = set()
    if kept and known.keeper:
        roots.add(known.keeper[0])
    roots.update(pid for pid, start in known.before if living(table, (pid, start)))
    roots.update(seen.pid for seen in table.values() if seen.parent in known.struck)
    # A marker in its own environment can only hurt the process that carries it.
    roots.update(seen.pid for seen in table.values() if seen.claim == known.marker)
    if not known.ours:
        # A keeper of this daemon, and after it the daemon itself, inherits every orphan, so that a stranger in the cgroup was
        # put there from outside. Of an earlier daemon's run the cgroup may be all that is left to tell.
        roots.update(pid for pid in known.caged if others.isdisjoint(ancestors(table, pid)))
    elif (known.dying or not kept) and not known.proven:
        roots.update(seen.pid for seen in adopted(table, home))
    found = below(table, roots - protected, protected | others)
    return {pid: table[pid] for pid in found if not table[pid].gone or table[pid].fresh}


def below(table: Table, roots: Iterable[int], walls: set[int]) -> set[int]:
    """Return *roots* and everything below them, but for what is behind *walls*."""
    children: dict[int, list[int]] = {}
    for seen in table.values():
        children.setdefault(seen.parent, []).append(seen.pid)
    found: set[int] = set()
    open_ = [pid for pid in roots if pid in table]
    while open_:
        pid = open_.pop()
        if pid not in found:
            found.add(pid)
            open_.extend(child for child in children.get(pid, ()) if child not in walls)
    return found
