"""What a checkout says of itself, read through libgit2: no filter, hook or fsmonitor of the repository ever runs."""

import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pygit2
from pygit2.enums import DiffFind, DiffOption, FileMode, RepositoryOpenFlag

from daemon import inside
from daemon.domain.names import remote_id, shown

FILE_CAP = 256 << 10  # bytes of one file's patch
TOTAL_CAP = 4 << 20  # bytes of all patches
READ_CAP = 4 << 20  # a bigger file is named, not read
MAX_FILES = 5000
_LEAST = 4 << 10  # of the total: with less left, nothing more is shown
_RENAMES = 200  # with more files than that on both sides, renames are shown as what they are made of


class RepoProblem(Exception):
    """A path that cannot be worked in; the text is one sentence for the person who named it."""


@dataclass(frozen=True, slots=True)
class Repo:
    root: Path
    repo_id: str  # host/path of the remote, or local/<folder>
    branch: str  # "" when HEAD is detached
    head: str  # the commit
    dirty: bool


@dataclass(frozen=True, slots=True)
class FileDiff:
    path: str  # as `shown` makes it: printable
    old_path: str
    status: str  # added, deleted, modified, renamed, retyped, unreadable
    additions: int = 0
    deletions: int = 0
    patch: str = ""
    binary: bool = False
    truncated: bool = False  # the patch is cut or left out
    note: str = ""  # why there is no patch, or not all of it


@dataclass(frozen=True, slots=True)
class Diff:
    files: tuple[FileDiff, ...]
    count: int = 0  # of all files that differ, in `files` or not


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs from a commit. *place* is its place in libgit2's diff, None for what that does not see."""

    path: bytes
    old_path: bytes
    status: str
    old: pygit2.Oid | None
    old_mode: int
    mode: int
    place: int | None = None

    @property
    def nested(self) -> bool:
        return self.mode == FileMode.TREE or self.path.endswith(b"/")

    @property
    def submodule(self) -> bool:
        return FileMode.COMMIT in (self.mode, self.old_mode)


def look(path: str | Path) -> Repo:
    """Return what the checkout around *path* is. Raises RepoProblem."""
    root = find_root(path)
    repo = open_repo(root)
    try:
        if repo.head_is_unborn:
            raise RepoProblem(f"{shown(root)} has no commits yet: make a first one")
        head = repo.head
        return Repo(
            root=root,
            repo_id=_repo_id(repo, root),
            branch="" if repo.head_is_detached else shown(head.raw_shorthand),
            head=str(head.peel(pygit2.Commit).id),
            dirty=bool(repo.status(untracked_files="normal")),
        )
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        raise RepoProblem(f"{shown(root)} cannot be read as a git repository: {_words(error)}") from error
    finally:
        repo.free()


def find_root(path: str | Path) -> Path:
    """Return the folder of the checkout around *path*, links resolved. Raises RepoProblem."""
    given = Path(path)
    if not given.is_absolute():
        raise RepoProblem(f"{shown(given)} is not an absolute path")
    try:
        found = given.resolve(strict=True)
        if not found.is_dir():
            raise RepoProblem(f"{shown(given)} is not a folder")
        for folder in (found, *found.parents):
            if (folder / ".git").exists():
                return folder
    except (OSError, ValueError, RuntimeError) as error:
        reason = "there is no such folder" if isinstance(error, FileNotFoundError) else _words(error)
        raise RepoProblem(f"{shown(given)} cannot be opened on this machine: {reason}") from error
    if (found / "HEAD").is_file() and (found / "objects").is_dir():
        raise RepoProblem(f"{shown(given)} is a bare repository: name a checkout of it")
    raise RepoProblem(f"{shown(given)} is not in a git repository: name a checkout, or run git init there")


def open_repo(root: Path) -> pygit2.Repository:
    """Open the checkout whose root is exactly *root*. Raises RepoProblem."""
    try:
        repo = pygit2.Repository(str(root), RepositoryOpenFlag.NO_SEARCH)
        workdir = repo.workdir
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        if "not owned" in str(error):
            raise RepoProblem(
                f"{shown(root)} belongs to another user: if you trust it, run git config --global --add safe.directory with it"
            ) from error
        raise RepoProblem(f"{shown(root)} cannot be read as a git repository: {_words(error)}") from error
    if repo.is_bare or workdir is None:
        raise RepoProblem(f"{shown(root)} is a bare repository: name a checkout of it")
    # core.worktree is the agent's to write: it must not point the daemon at the files of somebody else.
    if Path(workdir).resolve() != root.resolve():
        raise RepoProblem(
            f"{shown(root)} says in core.worktree that its files are elsewhere: unset it, or name that folder"
        )
    return repo


def changes(repo: pygit2.Repository, tree: pygit2.Tree) -> tuple[pygit2.Diff, list[Change]]:
    """Return every path whose file differs from *tree*: untracked ones that are not ignored and committed ones included.

    Contents are compared, not what the index remembers of them, so assume-unchanged and skip-worktree hide nothing.
    """
    flags = (
        DiffOption.INCLUDE_UNTRACKED
        | DiffOption.RECURSE_UNTRACKED_DIRS
        | DiffOption.SHOW_UNTRACKED_CONTENT
        | DiffOption.INCLUDE_TYPECHANGE
        | DiffOption.INCLUDE_UNREADABLE
    )
    found = tree.diff_to_workdir(flags=flags)
    statuses = [delta.status_char() for delta in found.deltas]
    if statuses.count("?") + statuses.count("A") <= _RENAMES and statuses.count("D") <= _RENAMES:
        found.find_similar(DiffFind.FIND_RENAMES | DiffFind.FIND_FOR_UNTRACKED, rename_limit=_RENAMES)
    out = [
        Change(
            path=delta.new_file.raw_path,
            old_path=delta.old_file.raw_path,
            status=_STATUS.get(delta.status_char(), "modified"),
            old=delta.old_file.id if delta.old_file.mode else None,
            old_mode=int(delta.old_file.mode),
            mode=int(delta.new_file.mode),
            place=place,
        )
        for place, delta in enumerate(found.deltas)
    ]
    # A file that was added in spite of an ignore rule is not in the diff with the folder, but in that with the index.
    seen = {change.path for change in out}
    for delta in tree.diff_to_index(repo.index).deltas:
        path = delta.new_file.raw_path
        if delta.status_char() == "A" and path not in seen:
            out.append(Change(path, path, "added", None, 0, int(delta.new_file.mode)))
    return found, sorted(out, key=lambda change: change.path)


def diff(root: Path, base: str, *, limit_s: float = 20) -> Diff:
    """Return how the files in *root* differ from the commit *base*; after *limit_s* the rest is named without patches.

    Raises RepoProblem.
    """
    until = time.monotonic() + limit_s
    repo = open_repo(root)
    try:
        try:
            tree = repo[base].peel(pygit2.Tree)
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise RepoProblem(
                f"the commit {shown(base)[:40]} at which the run started is no longer in {shown(root)}"
            ) from error
        found, all_changes = changes(repo, tree)
        files, left = [], TOTAL_CAP
        with inside.folder(root) as folder:
            for change in all_changes[:MAX_FILES]:
                if left < _LEAST or time.monotonic() > until:
                    why = "the whole diff is too large" if left < _LEAST else "the time was up"
                    file = _named(change, note=f"left out: {why}", truncated=True)
                else:
                    file = _capped(_file(repo, found, change, folder), min(FILE_CAP, left))
                left -= len(file.patch.encode())
                files.append(file)
        return Diff(tuple(files), len(all_changes))
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        raise RepoProblem(f"{shown(root)} cannot be compared: {_words(error)}") from error
    finally:
        repo.free()


_STATUS = {
    "A": "added",
    "?": "added",
    "D": "deleted",
    "M": "modified",
    "R": "renamed",
    "T": "retyped",
    "X": "unreadable",
}


def _file(repo: pygit2.Repository, found: pygit2.Diff, change: Change, folder: int) -> FileDiff:
    if change.nested:
        return _named(change, note="a repository of its own: not shown", truncated=True)
    try:
        new_size = _size(folder, change)
    except (OSError, inside.Outside):
        return _named(change, note="cannot be read", truncated=True)
    old_size = repo.odb.read_header(change.old)[1] if change.old and not change.submodule else 0
    if max(new_size, old_size) > READ_CAP:
        return _named(change, note=f"too large to show: {max(new_size, old_size):,} bytes", truncated=True)
    if change.place is not None and change.status != "retyped":
        patch = found[change.place]
        if patch is not None and not patch.delta.is_binary:
            return _named(change, patch=patch)
    # Not as attributes say, which the agent may have written, but as the bytes are.
    try:
        new = b"" if change.status == "deleted" else inside.read(folder, change.path, READ_CAP) or b""
    except (OSError, inside.Outside):
        return _named(change, note="cannot be read", truncated=True)
    old = bytes(repo[change.old].data) if change.old else b""  # type: ignore[attr-defined]
    if b"\0" in old or b"\0" in new:
        return _named(change, binary=True, note=f"binary: {len(old):,} bytes before, {len(new):,} now")
    patch = pygit2.Patch.create_from(
        old,
        new,
        old_as_path=change.old_path.decode(errors="replace"),
        new_as_path=change.path.decode(errors="replace"),
        flag=DiffOption.FORCE_TEXT,
    )
    return _named(change, patch=patch)


def _named(
    change: Change, *, patch: Any = None, binary: bool = False, note: str = "", truncated: bool = False
) -> FileDiff:
    _, additions, deletions = patch.line_stats if patch is not None else (0, 0, 0)
    text = patch.data.decode(errors="replace") if patch is not None else ""
    old_path = change.old_path if change.status == "renamed" else b""
    return FileDiff(
        shown(change.path), shown(old_path), change.status, additions, deletions, text, binary, truncated, note
    )


def _capped(file: FileDiff, cap: int) -> FileDiff:
    raw = file.patch.encode()
    if len(raw) <= cap:
        return file
    head = raw[:cap].decode(errors="ignore")
    head = head[: head.rfind("\n") + 1]
    note = f"cut here: {len(raw) - len(head.encode()):,} more bytes"
    return replace(file, patch=head, truncated=True, note=note)


def _size(folder: int, change: Change) -> int:
    if change.status == "deleted" or change.submodule or stat.S_ISLNK(change.mode):
        return 0
    with inside.reading(folder, change.path) as (_, found):
        return found.st_size


def _repo_id(repo: pygit2.Repository, root: Path) -> str:
    return next((id for url in _remotes(repo) if (id := remote_id(url))), f"local/{shown(root.name)[:200] or 'root'}")


def _remotes(repo: pygit2.Repository) -> Iterator[str]:
    try:
        names = sorted(repo.remotes.names(), key=lambda name: (name != "origin", name or ""))
    except (pygit2.GitError, ValueError):
        return
    for name in names:
        try:
            url = repo.remotes[name].url if name else None
        except (pygit2.GitError, KeyError, ValueError):
            continue  # a remote without an address
        if url:
            yield url


def _words(error: BaseException) -> str:
    return shown(
        (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    )
