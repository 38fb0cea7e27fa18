"""The daemon's own eyes and hands on the runs' process trees: who lives of a run, and a signal for exactly those."""

import asyncio
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from daemon import faults, proctable
from daemon.cgroup import Cgroup, Cgroups
from daemon.domain.stop_ladder import Rung, Sight
from daemon.domain.tree import Born, Home, Known, Seen, Table, adopted, members
from daemon.keepers import Keepers

KEEPER_LEAVES_S = 0.25  # how long a keeper that has nothing left may take to end itself
KILLED_DIES_S = 5.0  # how long one that was sent SIGKILL may take, on a machine that has much to do
PASSES = 5  # over the table, to find one in which nobody died


@dataclass(frozen=True, slots=True)
class Look:
    """Who lives of one run: the tree, and its keeper apart where this daemon knows it."""

    tree: dict[int, Seen]
    keeper: Seen | None = None
    died: dict[int, Seen] = field(default_factory=dict)  # of the tree, while it was looked at
    caged: frozenset[int] = frozenset()  # in the run's cgroup
    inside: frozenset[int] = frozenset()  # in the part of it that is killed as a whole
    strangers: bool = False  # somebody lives in the cgroup who was put there from outside

    @property
    def everyone(self) -> list[Seen]:
        return [*self.tree.values(), *([self.keeper] if self.keeper else [])]


class Trees:
    def __init__(self, machine: str, keepers: Keepers, cgroups: Cgroups | None) -> None:
        self._machine = machine
        self._keepers = keepers
        self._cgroups = cgroups
        self._table = proctable.ProcTable()
        self._before: dict[str, frozenset[Born]] = {}
        self._started: frozenset[Born] = frozenset()
        self._burials: set[asyncio.Task[None]] = set()
        self._mourned: set[Born] = set()  # members of any run that are still in the process table

    def marker(self, run: str) -> str:
        return f"{self._machine}/{run}"

    def cage(self, run: str) -> Cgroup | None:
        return self._cgroups.of(run) if self._cgroups else None

    async def scan(self) -> Table:
        table = await self._table.scan(self._keepers.ever)
        children = [seen for seen in table.values() if seen.parent == os.getpid()]
        if self._keepers.steady(table) and self._keepers.steady(self._keepers.again()):
            self._started = frozenset(seen.born for seen in children if not seen.gone or seen.born in self._started)
        proctable.reap(seen.pid for seen in children if seen.gone and seen.born in self._mourned)
        self._mourned.intersection_update(seen.born for seen in table.values())
        self._keepers.prune(table)
        return table

    async def look(self, run: str) -> Look:
        """Return who lives of the run now, from passes over the whole process table: this is what proof is made of.

        Nobody lives when a pass shows nobody and nobody died under it: with the keeper dead its orphans are this process's
        children, and do not leave the table before it buries them. Without a keeper of ours two passes have to do.
        """
        await self.buried()
        clean = 0
        for _ in range(PASSES):
            table = dict(await self.scan())
            look = self._pick(run, table)
            self._before[run] = frozenset(seen.born for seen in look.everyone)
            ours = self._keepers.of(run) is not None
            if ours and not look.keeper:
                proctable.reap(seen.pid for seen in adopted(table, self._home()) if seen.gone)
            clean = 0 if look.died else clean + 1
            if look.everyone or clean == (1 if ours else 2):
                return look
        return replace(look, tree=look.died)  # something goes on that is never seen alive

    def hold(self, run: str) -> None:
        """Stop the keeper, as the beginning of a kill: the dead that it does not bury show what they left."""
        keeper = self._keepers.of(run)
        if keeper and not keeper.lost.is_set():
            proctable.signal_all([keeper.born], signal.SIGSTOP)

    async def fell(self, run: str) -> tuple[int, bool]:
        """Kill a tree that lives in its cgroup at one stroke; return how many that were, and whether nobody of the run is left.

        Nobody is struck when somebody in there was put there from outside. The keeper is held, as for `settled`; it dies when
        nothing is left for it to guard, which `buried` waits for.
        """
        cage, keeper = self.cage(run), self._keepers.of(run)
        self.hold(run)
        if cage is None or keeper is None:
            return 0, False
        os.sched_yield()  # it wakes up to stop, on this very processor as likely as not
        inside = cage.inside()
        # Nobody enters a session: who is in the keeper's was started by the run. Of the others it has to be looked up.
        others = proctable.read(pid for pid in inside if not proctable.in_session(pid, keeper.pid))
        guard = proctable.read([keeper.pid]).get(keeper.pid)
        held = guard is not None and guard.born == keeper.born and guard.state == "T"
        kin = {keeper.pid, *inside}
        if not (inside and held and all(seen.parent in kin for seen in others.values()) and cage.kill()):
            return 0, False
        faults.point("process.signalled")
        look = self._pick(run, await self._table.scan_but(inside, self._keepers.ever), inside)
        dead = not cage.inhabited()
        if not dead:
            await proctable.gone(_born(proctable.read(cage.inside()).values()), KILLED_DIES_S)
            dead = not cage.inhabited()
        if look.tree or look.died or not dead:
            return len(inside), False
        self._before.pop(run, None)
        keeper.relieve(-signal.SIGKILL if keeper.agent_pid in inside else None)
        burial = asyncio.create_task(self._bury(keeper.born, inside), name=f"burial {run}")
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)
        return len(inside), True

    async def buried(self) -> None:
        """Wait until the keepers and the dead of `fell` are out of the process table."""
        await asyncio.gather(*self._burials)

    async def _bury(self, keeper: Born, tree: Iterable[int]) -> None:
        proctable.signal_all([keeper], signal.SIGKILL)
        await proctable.gone([keeper], KILLED_DIES_S)
        proctable.reap(tree)  # they came here when it died

    def outside(self, run: str, look: Look) -> bool:
        """Whether anybody of the tree lives outside the run's cgroup."""
        cage = self.cage(run)
        return cage is not None and not all(cage.covers(pid) for pid in look.tree.keys() - look.caged)

    def sight(self, run: str, look: Look) -> Sight:
        cage, keeper = self.cage(run), self._keepers.of(run)
        if not look.everyone and not (cage and cage.populated() and not look.strangers):
            return Sight.EMPTY
        agent = look.tree.get(keeper.agent_pid) if keeper and keeper.agent_pid else None
        if (cage and cage.frozen()) or (agent and agent.state == "T"):
            return Sight.FROZEN
        return Sight.HEADLESS if keeper and keeper.agent_pid and agent is None else Sight.LIVE

    async def signal(self, run: str, rung: Rung, look: Look, time: int) -> Table:
        """Give the signal of *rung*, for the *time*th time; return whom it kills."""
        keeper = self._keepers.of(run)
        if rung is Rung.INTERRUPT:
            agent = look.tree.get(keeper.agent_pid) if keeper and keeper.agent_pid else None
            proctable.signal_all(_born([agent] if agent else look.tree.values()), signal.SIGINT)
        elif rung is Rung.TERMINATE:
            proctable.signal_all(_born(look.tree.values()), signal.SIGTERM)
        else:
            return await self._kill(run, look, time)
        return {}

    async def settled(self, run: str, condemned: Table, timeout: float) -> Look:
        """Wait for the death of those who were sent SIGKILL; return who lives.

        A pass over the table that is begun after the last signal, while a keeper is held from burying anybody, and that shows
        nobody else, not even dead, proves that nobody is left who could fork: the tree is empty once these have died.
        """
        keeper = self._keepers.of(run)
        held = True
        if keeper and not keeper.relieved:
            held = all(seen.gone or seen.state == "T" for seen in proctable.read([keeper.pid]).values())
        struck = frozenset(condemned)
        look = self._pick(run, await self._table.scan_but(struck, self._keepers.ever), struck)
        alone = held and not (look.tree or look.died)
        if keeper and look.keeper and alone:
            # It has nothing left to guard.
            keeper.relieve(-signal.SIGKILL if keeper.agent_pid in condemned else None)
            proctable.signal_all([look.keeper.born], signal.SIGKILL)
        # The keeper takes longest to die, and the dead that it had not buried are the daemon's only then.
        dead = look.keeper is None or await proctable.gone([look.keeper.born], timeout)
        proctable.reap(pid for pid, seen in condemned.items() if seen.born in self._mourned)
        dying = [seen for seen in proctable.read(condemned).values() if not seen.gone]
        dead = dead and (not dying or await proctable.gone(_born(dying), timeout))
        cage = self.cage(run)
        if not dead or not alone or (cage and cage.populated()):
            return await self.look(run)
        self._before.pop(run, None)
        return Look({})

    async def dismiss(self, look: Look, time: int) -> None:
        """End a keeper that has nothing left: it goes by itself, when its line breaks, or by force."""
        if look.keeper is None:
            return
        keeper = next((k for k in self._keepers.all() if k.born == look.keeper.born), None)
        if time >= 2 or look.keeper.state == "T":
            if keeper:
                keeper.relieve(None)
            proctable.signal_all([look.keeper.born], signal.SIGKILL)
        elif time == 1 and keeper:
            keeper.hang_up()
        await proctable.gone([look.keeper.born], KEEPER_LEAVES_S)

    def forget(self, run: str) -> None:
        self._before.pop(run, None)
        if cage := self.cage(run):
            cage.remove()

    async def _kill(self, run: str, look: Look, time: int) -> Table:
        cage, keeper = self.cage(run), self._keepers.of(run)
        # One that is lost or has not kept the tree from starting more goes with the rest.
        spared = look.keeper if look.keeper and time == 1 and keeper and not keeper.lost.is_set() else None
        if keeper and look.keeper and spared is None:
            keeper.relieve(-signal.SIGKILL if keeper.agent_pid in look.tree else None)
        rest = [seen for seen in look.everyone if seen is not spared]
        if cage and self._only_ours(look) and cage.kill() and time == 1:
            # The kernel's kill passes over a process whose first thread has ended.
            rest = [seen for seen in rest if seen.pid not in look.inside or seen.state == "Z"]
        if time > 1 and rest:  # it forks faster than it dies: hold all of it first
            held: dict[Born, Seen] = {}
            for _ in range(8):
                fresh = [seen for seen in rest if seen.born not in held]
                if not fresh:
                    break
                proctable.signal_all(_born(fresh), signal.SIGSTOP)
                held.update((seen.born, seen) for seen in fresh)
                rest = [seen for seen in (await self.look(run)).everyone if spared is None or seen.born != spared.born]
            rest = list(held.values())
            for group in self._groups(run, rest):
                proctable.kill_group(group)
        proctable.signal_all(_born(rest), signal.SIGSTOP, signal.SIGKILL)
        return look.tree | {seen.pid: seen for seen in rest}

    def _groups(self, run: str, orphans: list[Seen]) -> set[int]:
        """Return the process groups of a keeper's orphans; whoever is in one of them was started by the run.

        Each of these may be gone before a signal reaches it, with a child in its place that is not known yet.
        """
        keeper = self._keepers.of(run)
        if keeper is None:
            return set()
        mine, parents = (keeper.pid, os.getpgid(0), -1, 0), (keeper.pid, os.getpid())
        return {
            seen.group
            for seen in orphans
            if seen.parent in parents and seen.group not in mine and seen.session not in (os.getsid(0), 0, -1)
        }

    def _only_ours(self, look: Look) -> bool:
        """Whether the cgroup holds nobody who was put there from outside: this daemon, say, or an editor."""
        ours = look.tree.keys() | ({look.keeper.pid} if look.keeper else set())
        strangers = look.inside - ours
        known = ours | look.inside
        return all(seen.parent in known for seen in proctable.read(strangers).values() if not seen.gone)

    def _pick(self, run: str, table: dict[int, Seen], struck: frozenset[int] = frozenset()) -> Look:
        """Tell from a pass who is of the run. After a kill of *struck* the kernel's count tells whether the cgroup is empty."""
        keeper, cage = self._keepers.of(run), self.cage(run)
        everywhere, inside = cage.pids() if cage and not struck else (struck, struck)
        born_since = proctable.read(everywhere - table.keys() - struck)
        table.update((pid, replace(seen, fresh=seen.gone)) for pid, seen in born_since.items())
        before = self._before.get(run, frozenset())
        known = Known(self.marker(run), caged=everywhere, before=before, struck=struck)
        if keeper:
            known = replace(known, keeper=keeper.born, ours=True, proven=keeper.proven, dying=keeper.relieved)
        found = members(table, known, self._home())
        is_kept = keeper is not None and keeper.pid in found and found[keeper.pid].start == keeper.born[1]
        kept = found.pop(keeper.pid) if keeper and is_kept else None
        self._mourned.update(seen.born for seen in found.values())
        died = {pid: found.pop(pid) for pid, seen in list(found.items()) if seen.gone}
        others = everywhere - found.keys() - ({kept.pid} if kept else set())
        strangers = any(pid in table and not table[pid].gone for pid in others)
        return Look(found, kept, died, everywhere, inside, strangers)

    def _home(self) -> Home:
        return Home(os.getpid(), os.getsid(0), frozenset(self._keepers.ever), self._started)


def _born(processes: Iterable[Seen]) -> list[Born]:
    return [seen.born for seen in processes]
