"""Every process of every run: started behind a keeper, seen by the daemon itself, and brought to an end with proof.

Nothing here takes a keeper's word: the keeper guards against the daemon's death, the daemon ends trees with its own hands.
"""

import asyncio
import os
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from daemon import faults, proctable
from daemon.cgroup import Cgroups
from daemon.clock import Clock
from daemon.domain.agent import Launch
from daemon.domain.stop_ladder import PATIENCE_MS, Do, Rung, Walk
from daemon.domain.tree import Born, living
from daemon.keepers import Keepers
from daemon.kept import Grade, Keeper, KeeperFailed
from daemon.trees import Look, Trees

__all__ = ["Emptied", "Grade", "Keeper", "KeeperFailed", "Launch", "Processes"]

RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # it names a folder
LOOK_EVERY_S = 0.1
KILL_AGAIN_S = 0.05
OLD_KEEPERS_MS = PATIENCE_MS[Rung.INTERRUPT] + PATIENCE_MS[Rung.TERMINATE] + 500


@dataclass(frozen=True, slots=True)
class Emptied:
    """How a run's tree ended. *left* names what still lives ("pid 123 sleep"); when it is empty the daemon has seen all gone."""

    grade: Grade
    rung: str  # the last that was needed: none, interrupt, terminate or kill
    took_ms: int
    processes: int  # of the tree, the keeper not counted
    left: tuple[str, ...] = ()


class Processes:
    """The runs' processes of one machine. Whoever starts processes in this daemon other than by `launch` does it without a
    session of their own: a child in another session is taken for the orphan of a killed keeper."""

    def __init__(self, machine: str, home: Path, clock: Clock, *, cgroups: bool = True) -> None:
        self._machine = machine
        self._home = home
        self._clock = clock
        self._want_cgroups = cgroups
        self._launcher = home / "keeper.sh"
        self._was_subreaper = False

    async def __aenter__(self) -> "Processes":
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._home.chmod(0o700)
        self._was_subreaper = proctable.become_subreaper()
        self._cgroups = Cgroups.find(self._machine, self._home) if self._want_cgroups and proctable.LINUX else None
        self._keepers = Keepers(self._home, self._clock)
        self._trees = Trees(self._machine, self._keepers, self._cgroups)
        self._write_launcher()
        await self._keepers.open()
        await self._trees.scan()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Break every life line: keepers that still hold something end it themselves. What dead or stopped ones held is
        ended here, for nobody else would."""
        alive = self._keepers.again()
        for keeper in self._keepers.all():
            if not keeper.proven and (keeper.lost.is_set() or not living(alive, keeper.born)):
                await self.end(keeper.run, grace_s=0, from_rung=Rung.KILL)
        await self._trees.buried()
        self._keepers.close()
        if self._cgroups:
            self._cgroups.close()
        if not self._was_subreaper:
            proctable.become_subreaper(False)

    def launch(self, run: str, attempt: int, program: Path) -> Launch:
        """Prepare one start of *program* behind a keeper, which must call in before it starts it. Raises KeeperFailed."""
        if not RUN_ID.fullmatch(run):
            raise KeeperFailed(f"{run[:80]!r} cannot be the id of a run: use letters, digits, '.', '_' and '-'")
        cage, earlier = self._trees.cage(run), self._keepers.of(run)
        if (cage and cage.populated()) or (earlier and living(self._keepers.again(), earlier.born)):
            raise KeeperFailed(f"run {run}: attempt {attempt} cannot start while processes of an earlier one live")
        caged = cage is not None and cage.make()
        faults.point("process.launched")
        settings = {
            "SOCKET": str(self._keepers.socket),
            "SECRET": self._keepers.expect(run, self._trees.marker(run)),
            "PROGRAM": str(program),
            "CGROUP": str(cage.path) if cage and caged else "",
            "RUN": self._trees.marker(run),
        }
        return Launch(self._launcher, {f"SWITCHBOARD_KEEPER_{name}": value for name, value in settings.items()})

    async def keeper(self, run: str, timeout: float) -> Keeper:
        """Return the run's keeper once its agent has started. Raises KeeperFailed."""
        keeper = await self._keepers.arrival(run, timeout)
        cage = self._trees.cage(run)
        if cage and keeper.agent_pid and keeper.pid in cage.pids()[0] and cage.covers(keeper.agent_pid):
            keeper.grade = Grade.CONTAINED
        return keeper

    async def look(self, run: str) -> frozenset[int]:
        """Return the pids of the run that live now, its keeper included, as the daemon itself sees them."""
        return frozenset(seen.pid for seen in (await self._trees.look(run)).everyone if not seen.gone)

    async def end(
        self, run: str, *, grace_s: float, from_rung: str = "terminate", since_ms: int | None = None
    ) -> Emptied:
        """Empty the run's tree as `empty` does, and see its keeper out of the process table."""
        emptied = await self.empty(run, grace_s=grace_s, from_rung=from_rung, since_ms=since_ms)
        await self._trees.buried()
        return emptied

    async def empty(
        self, run: str, *, grace_s: float, from_rung: str = "terminate", since_ms: int | None = None
    ) -> Emptied:
        """Climb the stop ladder from *from_rung* until nothing of the run lives; each rung below the kill has *grace_s*.

        *since_ms* (boot clock) is what `took_ms` counts from. Returns with `left` filled when even SIGKILL was not enough. The
        keeper, which was sent SIGKILL while it was stopped, may take a moment longer to go.
        """
        began = self._clock.boot_ms() if since_ms is None else since_ms
        self._keepers.revoke(run)
        grace = round(grace_s * 1000)
        patience = {Rung.INTERRUPT: min(grace, PATIENCE_MS[Rung.INTERRUPT]), Rung.TERMINATE: grace}
        walk = Walk(Rung(from_rung), {**PATIENCE_MS, **patience})
        counted: set[Born] = set()
        grade = self._grade(run)
        idle = kills = 0
        look, do = Look({}), Do.DONE
        felled, empty = await self._trees.fell(run) if walk.first is Rung.KILL else (0, False)
        if not empty:
            look = await self._trees.look(run)
        while not empty:
            counted.update(seen.born for seen in look.tree.values() if not seen.gone)
            if grade is Grade.CONTAINED and self._trees.outside(run, look):
                grade = Grade.TRACED if self._keepers.of(run) else Grade.BEST_EFFORT
            if look.keeper and not look.tree and idle < 4:
                await self._trees.dismiss(look, idle)
                idle += 1
                look = await self._trees.look(run)
                continue
            walk, do = walk.take(self._trees.sight(run, look), self._clock.boot_ms())
            if do in (Do.DONE, Do.GIVE_UP):
                break
            if do is Do.SIGNAL:
                kills += walk.rung is Rung.KILL
                if kills == 1 and walk.first is not Rung.KILL:
                    self._trees.hold(run)
                condemned = await self._trees.signal(run, walk.rung, look, kills)
                faults.point("process.signalled")
            if walk.rung is Rung.KILL:
                look = await self._trees.settled(run, condemned, KILL_AGAIN_S)
            else:
                left_s = walk.left_ms(self._clock.boot_ms()) / 1000
                await proctable.gone([seen.born for seen in look.everyone], min(LOOK_EVERY_S, left_s))
                look = await self._trees.look(run)
        left = tuple(f"pid {seen.pid} {seen.name}" for seen in look.everyone)
        if do is Do.GIVE_UP and not left:
            left = ("processes in its cgroup that end before they can be named",)
        if keeper := self._keepers.of(run):
            keeper.proven = not left
        faults.point("process.proven")
        rung = Rung.KILL if felled else walk.rung
        return Emptied(grade, rung.value, max(0, self._clock.boot_ms() - began), felled + len(counted), left)

    async def sweep(self, runs: Iterable[str]) -> dict[str, Emptied]:
        """End what an earlier daemon left of *runs*, and of the runs that have a cgroup here; its keepers, where they still
        climb their own ladder, are given the time for it."""
        began = self._clock.boot_ms()
        caged = set(self._cgroups.runs()) if self._cgroups else set()
        result = {run: Emptied(Grade.BEST_EFFORT, Rung.NONE.value, 0, 0) for run in {*runs, *caged}}
        claims = {seen.claim for seen in (await self._trees.scan()).values()}
        suspects = {run for run in result if run in caged or self._trees.marker(run) in claims}
        counted: dict[str, int] = dict.fromkeys(suspects, 0)
        while suspects:
            overdue = self._clock.boot_ms() - began >= OLD_KEEPERS_MS
            for run in sorted(suspects):
                look = await self._trees.look(run)
                counted[run] = max(counted[run], len(look.tree))
                if overdue or not look.tree:
                    suspects.discard(run)
                    ended = await self.end(run, grace_s=0, from_rung=Rung.KILL, since_ms=began)
                    result[run] = replace(ended, processes=max(counted[run], ended.processes))
                    self.forget(run)
            if suspects:
                await asyncio.sleep(LOOK_EVERY_S)
        return result

    def forget(self, run: str) -> None:
        """Drop the run's handle and take its cgroup away."""
        self._keepers.forget(run)
        self._trees.forget(run)

    def _grade(self, run: str) -> Grade:
        if keeper := self._keepers.of(run):
            return keeper.grade
        cage = self._trees.cage(run)
        return Grade.CONTAINED if cage and cage.tree.exists() else Grade.BEST_EFFORT

    def _write_launcher(self) -> None:
        """What a driver executes instead of the agent. The run's name is an argument, so that it shows in `ps` and can be
        found by a later daemon: the environment of a keeper cannot be read."""
        keeper = Path(__file__).with_name("keeper.py")
        line = f'exec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(keeper))} "$SWITCHBOARD_KEEPER_RUN" "$@"'
        fresh = self._launcher.with_suffix(f".{os.getpid()}")
        fresh.write_text(f"#!/bin/sh\n{line}\n")
        fresh.chmod(0o700)
        fresh.rename(self._launcher)
