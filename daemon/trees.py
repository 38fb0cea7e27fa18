"""The daemon's own eyes and hands on the runs' process trees: who lives of a run, and a signal for exactly those."""

import asyncio
import os
import signal
from dataclasses import dataclass, replace

from daemon import proctable
from daemon.cgroup import Cgroup, Cgroups
from daemon.domain.stop_ladder import Rung, Sight
from daemon.domain.tree import Born, Home, Known, Seen, Table, adopted, members
from daemon.keepers import Keepers
from daemon.kept import Keeper

KEEPER_LEAVES_S = 0.25  # how long a keeper that has nothing left may take to end itself


@dataclass(frozen=True, slots=True)
class Look:
    """Who lives of one run: the tree, and its keeper apart where this daemon knows it."""

    tree: dict[int, Seen]
    keeper: Seen | None = None
    caged: frozenset[int] = frozenset()  # in the run's cgroup
    inside: frozenset[int] = frozenset()  # in the part of it that is killed as a whole

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
        self._paused: dict[str, set[Born]] = {}
        self._started: frozenset[Born] = frozenset()
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
        """Return who lives of the run now, from a pass over the whole process table: this is what proof is made of."""
        table = dict(await self.scan())
        look = self._pick(run, table)
        self._before[run] = frozenset(seen.born for seen in look.everyone)
        if self._keepers.of(run) and not look.keeper:
            proctable.reap(seen.pid for seen in adopted(table, self._home()) if seen.gone)
        return look

    def glance(self, run: str) -> Look:
        """Return who is in the run's cgroup, without a pass over the table: enough to begin a kill, never to end one.

        Nobody, when somebody in there has parents elsewhere: an orphan of a dead keeper, or one who was put there.
        """
        cage, keeper = self.cage(run), self._keepers.of(run)
        if cage is None or keeper is None:
            return Look({})
        caged, inside = cage.pids()
        tree = {pid: seen for pid, seen in proctable.read(inside).items() if not seen.gone}
        if any(seen.parent not in inside and seen.parent != keeper.pid for seen in tree.values()):
            return Look({})
        self._mourned.update(seen.born for seen in tree.values())
        return Look(tree, caged=caged, inside=inside)

    def outside(self, run: str, look: Look) -> bool:
        """Whether anybody of the tree lives outside the run's cgroup."""
        cage = self.cage(run)
        return cage is not None and not all(cage.covers(pid) for pid in look.tree.keys() - look.caged)

    def sight(self, run: str, look: Look) -> Sight:
        cage, keeper = self.cage(run), self._keepers.of(run)
        if not look.everyone:
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
            proctable.signal_all([agent] if agent else look.tree.values(), signal.SIGINT)
        elif rung is Rung.TERMINATE:
            proctable.signal_all(look.tree.values(), signal.SIGTERM)
        else:
            return await self._kill(run, look, time)
        return {}

    async def settled(self, run: str, condemned: Table, timeout: float) -> Look:
        """Wait for the death of those who were sent SIGKILL; return who lives.

        A pass over the table that is begun after the last signal and shows nobody else proves that nobody is left who could
        fork, so that the tree is empty once these have died.
        """
        look = self._pick(run, await self._table.scan_but(condemned, self._keepers.ever))
        alone = not look.tree.keys() - condemned.keys()
        keeper = self._keepers.of(run)
        if keeper and look.keeper and alone and keeper.agent_pid in condemned:
            # It has nothing left to guard, and its agent ends as it does.
            keeper.relieve(-signal.SIGKILL)
            proctable.signal_all([look.keeper], signal.SIGKILL)
        # The keeper takes longest to die, and the dead that it had not buried are the daemon's only then.
        dead = look.keeper is None or await proctable.gone([look.keeper], timeout)
        proctable.reap(pid for pid, seen in condemned.items() if seen.born in self._mourned)
        dying = [seen for seen in proctable.read(condemned).values() if not seen.gone]
        dead = dead and (not dying or await proctable.gone(dying, timeout))
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
            proctable.signal_all([look.keeper], signal.SIGKILL)
        elif time == 1 and keeper:
            keeper.hang_up()
        await proctable.gone([look.keeper], KEEPER_LEAVES_S)

    async def freeze(self, keeper: Keeper) -> bool:
        """Bring the tree to rest: by its cgroup, and by SIGSTOP whoever is outside of it."""
        cage, paused = self.cage(keeper.run), self._paused.setdefault(keeper.run, set())
        caged = cage is not None and cage.freeze(True)
        for _ in range(100):
            look = await self.look(keeper.run)
            moving = [
                seen for pid, seen in look.tree.items() if not (caged and pid in look.inside) and seen.state != "T"
            ]
            if not moving and not (caged and cage and cage.populated() and not cage.settled()):
                return True
            proctable.signal_all(moving, signal.SIGSTOP)
            paused.update(seen.born for seen in moving)
            await asyncio.sleep(0.01)
        return False

    async def thaw(self, keeper: Keeper) -> None:
        paused = self._paused.pop(keeper.run, set())
        if paused:
            look = await self.look(keeper.run)
            proctable.signal_all([seen for seen in look.tree.values() if seen.born in paused], signal.SIGCONT)
        if cage := self.cage(keeper.run):
            cage.freeze(False)

    def forget(self, run: str) -> None:
        self._before.pop(run, None)
        self._paused.pop(run, None)
        if cage := self.cage(run):
            cage.remove()

    async def _kill(self, run: str, look: Look, time: int) -> Table:
        cage, keeper = self.cage(run), self._keepers.of(run)
        # While it works the keeper buries its dead and goes by itself, with the agent's exit code. One that is stopped, lost
        # or keeps starting things is killed with the rest.
        spared = look.keeper if look.keeper and look.keeper.state != "T" and time < 4 else None
        if keeper and keeper.lost.is_set():
            spared = None
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
                proctable.signal_all(fresh, signal.SIGSTOP)
                held.update((seen.born, seen) for seen in fresh)
                rest = [seen for seen in (await self.look(run)).everyone if spared is None or seen.born != spared.born]
            rest = list(held.values())
        proctable.signal_all(rest, signal.SIGSTOP, signal.SIGKILL)
        return look.tree | {seen.pid: seen for seen in rest}

    def _only_ours(self, look: Look) -> bool:
        """Whether the cgroup holds nobody who was put there from outside: this daemon, say, or an editor."""
        ours = look.tree.keys() | ({look.keeper.pid} if look.keeper else set())
        strangers = look.inside - ours
        known = ours | look.inside
        return all(seen.parent in known for seen in proctable.read(strangers).values() if not seen.gone)

    def _pick(self, run: str, table: dict[int, Seen]) -> Look:
        keeper, cage = self._keepers.of(run), self.cage(run)
        everywhere, inside = cage.pids() if cage else (frozenset[int](), frozenset[int]())
        table.update(proctable.read(everywhere - table.keys()))  # born since
        before = self._before.get(run, frozenset())
        known = Known(self.marker(run), caged=everywhere, before=before)
        if keeper:
            known = replace(known, keeper=keeper.born, ours=True, proven=keeper.proven)
        found = members(table, known, self._home())
        is_kept = keeper is not None and keeper.pid in found and found[keeper.pid].start == keeper.born[1]
        kept = found.pop(keeper.pid) if keeper and is_kept else None
        self._mourned.update(seen.born for seen in found.values())
        return Look(found, kept, everywhere, inside)

    def _home(self) -> Home:
        return Home(os.getpid(), os.getsid(0), frozenset(self._keepers.ever), self._started)
