"""A cgroup (version 2) for each run: its keeper in `<run>/`, the agent and all that it starts in `<run>/tree`.

Only `tree` is ever killed as a whole, or the keeper would go with it.
"""

import contextlib
import hashlib
import os
import subprocess
from pathlib import Path


class Cgroups:
    def __init__(self, base: Path, name: str) -> None:
        self.base = base
        self._name = name  # of the same, as /proc/<pid>/cgroup has it

    @classmethod
    def find(cls, machine: str, home: Path) -> "Cgroups | None":
        """Return a place of our own below this process's cgroup, or None where none may be made, filled, frozen or killed."""
        own, name = _own()
        if own is None:
            return None
        # Two daemons of one user must not sweep each other's runs.
        mark = hashlib.sha256(f"{machine}\0{home.resolve()}".encode()).hexdigest()[:12]
        base = own / f"switchboard-{mark}"
        probe = base / f"probe.{os.getpid()}"
        try:
            probe.mkdir(parents=True, exist_ok=True)
            if not (probe / "cgroup.kill").exists() or not (probe / "cgroup.freeze").exists():
                return None
            # Moving a process needs more rights than making a group: the proof is a process that moved.
            script = 'echo $$ > "$1/cgroup.procs"'
            moved = subprocess.run(
                ["/bin/sh", "-c", script, "sh", str(probe)], stderr=subprocess.DEVNULL, timeout=5, check=False
            )
            return cls(base, f"{name.rstrip('/')}/{base.name}") if moved.returncode == 0 else None
        except (OSError, subprocess.SubprocessError):
            return None
        finally:
            for path in (probe, base):
                with contextlib.suppress(OSError):
                    path.rmdir()

    def of(self, run: str) -> "Cgroup":
        return Cgroup(self.base / run, f"{self._name}/{run}")

    def runs(self) -> list[str]:
        """Return the runs that have a group here, those of an earlier daemon included."""
        try:
            return [entry.name for entry in os.scandir(self.base) if entry.is_dir()]
        except OSError:
            return []

    def close(self) -> None:
        """Take away what is empty."""
        for run in self.runs():
            self.of(run).remove()
        with contextlib.suppress(OSError):
            self.base.rmdir()


class Cgroup:
    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.tree = path / "tree"
        self._name = name

    def make(self) -> bool:
        try:
            self.tree.mkdir(parents=True, exist_ok=True)
            _write(self.tree / "cgroup.freeze", "0")
        except OSError:
            return False
        return True

    def pids(self) -> tuple[frozenset[int], frozenset[int]]:
        """Return everyone in the run's group and the groups below it, and of these whoever is in or below `tree`."""
        inside = self.inside()
        return _everyone(self.path, but="tree") | inside, inside

    def inside(self) -> frozenset[int]:
        return _everyone(self.tree)

    def covers(self, pid: int) -> bool:
        """Whether a process is in the group or below it, even one that is dying and so no longer listed there."""
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except OSError:
            return True  # dead
        return any(line.startswith(f"0::{self._name}/") or line == f"0::{self._name}" for line in lines)

    def populated(self) -> bool:
        """Whether the kernel counts anyone in the group or below it; zombies are not counted."""
        return _populated(self.path)

    def inhabited(self) -> bool:
        """The same of `tree` alone."""
        return _populated(self.tree)

    def frozen(self) -> bool:
        """Whether somebody has frozen the tree: the agent itself could."""
        with contextlib.suppress(OSError):
            return (self.tree / "cgroup.freeze").read_text().strip() == "1"
        return False

    def kill(self) -> bool:
        """Kill the tree whole, frozen or not. The kernel sees to forks that are under way, so it need not be frozen first."""
        try:
            _write(self.tree / "cgroup.kill", "1")
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Take the groups away, deepest first; the kernel keeps those that still hold somebody."""
        for folder, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _own() -> tuple[Path | None, str]:
    """Return this process's cgroup2 folder (proc(5), cgroups(7)), None where there is none to see, and its name."""
    try:
        names = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return None, ""
    for fields in mounts:
        if "-" in fields and fields[fields.index("-") + 1] == "cgroup2" and names and ".." not in names[0]:
            root, at = fields[3], Path(fields[4])
            relative = os.path.relpath(names[0], root)
            return (None if relative.startswith("..") else at / relative), names[0]
    return None, ""


def _everyone(folder: Path, but: str = "") -> frozenset[int]:
    """Return who is in a group and in the groups below it that somebody else made."""
    found = _procs(str(folder))
    with contextlib.suppress(OSError):
        if os.stat(folder).st_nlink > 2 + bool(but):  # `.`, `..` and what is left out
            for deeper, below, _ in os.walk(folder):
                found |= _procs(deeper)
                if deeper == str(folder) and but in below:
                    below.remove(but)
    return frozenset(found)


def _populated(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return "populated 1" in (folder / "cgroup.events").read_text()
    return False


def _procs(folder: str) -> set[int]:
    try:
        with open(folder + "/cgroup.procs", "rb", buffering=0) as file:
            found = set(map(int, file.read().split()))
    except OSError:
        return set()
    found.discard(0)  # a process of a pid namespace that cannot be seen from here
    return found


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
