"""What a stopped run had not committed, kept on its own machine for 14 days: a stop never loses work.

A copy is one folder, there whole or not at all: manifest.json names every path, and files.zip holds the contents by number,
so that no name chosen by an agent is ever a name on this disk.
"""

import contextlib
import json
import os
import secrets
import shutil
import stat
import time
import zipfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pygit2
from pygit2.enums import FileStatus

from daemon import faults, git, inside
from daemon.clock import Clock
from daemon.disk import DiskError, private_folder, sync_folder
from daemon.domain.facts import Saved
from daemon.domain.names import shown
from daemon.domain.secret_files import looks_secret

_FORMAT = 1
_BLOCK = 1 << 20
_LISTED = 200  # of the paths that were not saved; the rest is counted
_ID = frozenset("0123456789abcdef-")


@dataclass(frozen=True, slots=True)
class Caps:
    file_bytes: int = 50 << 20
    total_bytes: int = 500 << 20
    seconds: float = 60
    free_bytes: int = 512 << 20  # so much of the disk stays free
    days: int = 14


@dataclass(frozen=True, slots=True)
class Entry:
    path: str  # with surrogate escapes for bytes that are not UTF-8
    kind: str  # file, link, deleted
    mode: int = 0o644
    member: str = ""  # of files.zip
    target: str = ""  # of a link
    size: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy, as its manifest says."""

    id: str
    run: str
    root: str
    base: str
    head: str
    branch: str
    saved_wall_ms: int
    expires_wall_ms: int
    bytes: int = 0
    entries: tuple[Entry, ...] = ()
    not_saved: tuple[str, ...] = ()


@dataclass
class _Work:
    """A copy in the making."""

    until: float
    zip: zipfile.ZipFile
    entries: list[Entry] = field(default_factory=list)
    not_saved: list[str] = field(default_factory=list)
    bytes: int = 0


class NoCopy(Exception):
    """There is no copy by that id, or it cannot be read; the text is one sentence."""


class SafetyStore:
    """Its methods block on the disk for as long as the caps allow: call them in a thread."""

    def __init__(self, home: Path, clock: Clock, caps: Caps | None = None) -> None:
        self._folder, self._clock, self.caps = home / "safety", clock, caps or Caps()

    def save(self, root: Path, run: str, base: str) -> Saved:
        """Keep what in *root* differs from its HEAD. Never raises: what went wrong is in the answer."""
        head = ""
        try:
            repo = git.open_repo(root)
            try:
                head = str(repo.head.peel(pygit2.Commit).id)
                return self._save(repo, root, run, base, head)
            finally:
                repo.free()
        except (git.RepoProblem, DiskError) as error:
            return Saved(head=head, error=str(error))
        except OSError as error:
            return Saved(head=head, error=f"the copy could not be written: {error.strerror or error}")
        except (pygit2.GitError, KeyError, ValueError) as error:
            return Saved(head=head, error=f"{shown(root)} cannot be read as a git repository: {shown(str(error))}")

    def copies(self) -> list[Copy]:
        """Every copy without its entries, the newest first."""
        found = []
        for folder in self._folders():
            with contextlib.suppress(NoCopy):
                found.append(replace(self.show(folder.name), entries=()))
        return sorted(found, key=lambda copy: copy.saved_wall_ms, reverse=True)

    def show(self, id: str) -> Copy:
        """Raises NoCopy."""
        if not id or set(id) - _ID or not (self._folder / id).is_dir():
            raise NoCopy(f"this machine keeps no copy {shown(id)}")
        try:
            facts = json.loads((self._folder / id / "manifest.json").read_bytes())
            if facts.pop("format") > _FORMAT:
                raise NoCopy(f"the copy {id} was written by a younger daemon: restore it with that one")
            entries = tuple(Entry(**entry) for entry in facts.pop("entries"))
            return Copy(**facts | {"entries": entries, "not_saved": tuple(facts["not_saved"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NoCopy(f"the copy {id} cannot be read: {shown(str(error))}") from error

    def contents(self, id: str) -> zipfile.ZipFile:
        """Open the contents of a copy by their member names. Raises NoCopy."""
        try:
            return zipfile.ZipFile(self._folder / id / "files.zip")
        except (OSError, zipfile.BadZipFile) as error:
            raise NoCopy(f"the copy {id} cannot be read: {shown(str(error))}") from error

    def purge(self, run: str) -> int:
        """Forget the copies of a run; return how many there were."""
        ids = [copy.id for copy in self.copies() if copy.run == run]
        for id in ids:
            self._remove(self._folder / id)
        return len(ids)

    def expire(self, now_wall_ms: int) -> list[str]:
        """Forget the copies whose time is over, and what a crash left half written; return the ids of the former."""
        gone = [copy.id for copy in self.copies() if copy.expires_wall_ms <= now_wall_ms]
        for id in gone:
            self._remove(self._folder / id)
        for folder in self._folder.glob(".new-*") if self._folder.is_dir() else ():
            shutil.rmtree(folder, ignore_errors=True)
        return gone

    def _folders(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if path.name[0] != "."] if self._folder.is_dir() else []

    def _remove(self, folder: Path) -> None:
        # By another name first: a copy is there whole or not at all.
        away = self._folder / f".new-{folder.name}"
        shutil.rmtree(away, ignore_errors=True)
        folder.rename(away)
        sync_folder(self._folder)
        shutil.rmtree(away, ignore_errors=True)

    def _save(self, repo: pygit2.Repository, root: Path, run: str, base: str, head: str) -> Saved:
        until = time.monotonic() + self.caps.seconds
        _, changes = git.changes(repo, repo.head.peel(pygit2.Tree))
        ignored = _ignored(repo)
        if not changes:
            return Saved(head=head, not_saved=_told(ignored), left_out=len(ignored))
        now = self._clock.wall_ms()
        id = f"{now:012x}-{secrets.token_hex(6)}"
        fresh = private_folder(self._folder) / f".new-{id}"
        fresh.mkdir(mode=0o700)
        try:
            with (
                (fresh / "files.zip").open("xb") as file,
                zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
                inside.folder(root) as folder,
            ):
                work = _Work(until, archive)
                for change in changes:
                    self._keep(work, folder, change)
                archive.close()
                _sync(file)
            left_out = [*work.not_saved, *ignored]
            branch = "" if repo.head_is_detached else shown(repo.head.raw_shorthand)
            copy = Copy(
                id=id,
                run=run,
                root=str(root),
                base=base,
                head=head,
                branch=branch,
                saved_wall_ms=now,
                expires_wall_ms=now + self.caps.days * 86_400_000,
                bytes=work.bytes,
                entries=tuple(work.entries),
                not_saved=_told(left_out),
            )
            with (fresh / "manifest.json").open("x", encoding="ascii") as manifest:
                json.dump({"format": _FORMAT} | asdict(copy), manifest, indent=1)
                _sync(manifest)
            sync_folder(fresh)
            faults.point("safety.writing")
            fresh.rename(self._folder / id)
            sync_folder(self._folder)
            faults.point("safety.written")
        except BaseException:  # half a copy must not look like one, and takes room
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        return Saved(id, head, len(copy.entries), copy.bytes, copy.not_saved, left_out=len(left_out))

    def _keep(self, work: _Work, root: int, change: git.Change) -> None:
        """Add one path to the copy, or say why not."""
        if change.status == "renamed":
            work.entries.append(Entry(os.fsdecode(change.old_path), "deleted"))
        path = os.fsdecode(change.path)
        if change.status == "deleted":
            work.entries.append(Entry(path, "deleted"))
            return
        why = ""
        if change.nested:
            why = "a repository of its own"
        elif change.submodule:
            why = "a submodule"
        elif looks_secret(path):
            why = "looks like a credential"
        elif time.monotonic() > work.until:
            why = f"the time of {self.caps.seconds:g} s was up"
        else:
            try:
                with inside.parent(root, change.path) as (here, name):
                    found = os.stat(name, dir_fd=here, follow_symlinks=False)
                    if stat.S_ISLNK(found.st_mode):
                        target = os.fsdecode(os.readlink(name, dir_fd=here))
                        work.entries.append(Entry(path, "link", target=target))
                        return
                why = self._keep_file(work, root, change.path)
            except inside.Outside as error:
                why = str(error)
            except OSError as error:
                if error.errno in (28, 122):  # the disk of the copy is full: there is none
                    raise
                why = error.strerror or str(error)
        if why:
            work.not_saved.append(f"{shown(change.path)}: {why}")

    def _keep_file(self, work: _Work, root: int, path: bytes) -> str:
        with inside.reading(root, path) as (file, found):
            size = found.st_size
            if size > self.caps.file_bytes:
                return f"over {self.caps.file_bytes >> 20} MiB"
            if work.bytes + size > self.caps.total_bytes:
                return f"the copy would be over {self.caps.total_bytes >> 20} MiB"
            if shutil.disk_usage(self._folder).free - size < self.caps.free_bytes:
                return "the disk is nearly full"
            member, done = f"{len(work.entries):06d}", 0
            with work.zip.open(zipfile.ZipInfo(member), "w", force_zip64=True) as out:
                # A file that grows while it is read is kept as long as it was at first.
                while done < size and (block := os.read(file, min(_BLOCK, size - done))):
                    out.write(block)
                    done += len(block)
            work.bytes += done
            work.entries.append(Entry(os.fsdecode(path), "file", found.st_mode & 0o777, member, size=done))
        return ""


def _ignored(repo: pygit2.Repository) -> list[str]:
    found = repo.status(untracked_files="normal", ignored=True)
    return [f"{shown(os.fsencode(path))}: ignored by git" for path, flag in found.items() if flag & FileStatus.IGNORED]


def _told(paths: list[str]) -> tuple[str, ...]:
    more = len(paths) - _LISTED
    return (*paths[:_LISTED], f"… and {more:,} more") if more > 0 else tuple(paths)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
