"""Putting a safety copy into a folder: the files of its commit, and what had not been committed on top of them."""

import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pygit2
from pygit2.enums import FileMode

from daemon import inside
from daemon.domain.names import shown
from daemon.git import RepoProblem, open_repo
from daemon.safety import Copy, SafetyStore


@dataclass(frozen=True, slots=True)
class Restored:
    into: str
    committed: int  # files of the commit
    files: int  # of the copy on top of them
    deleted: int
    notes: tuple[str, ...]  # what is not as it was


class CannotRestore(Exception):
    """The text is one sentence."""


def restore(store: SafetyStore, id: str, into: Path) -> Restored:
    """Write the copy *id* into the folder *into*, which must be absolute, and new or empty.

    Raises NoCopy, CannotRestore.
    """
    copy = store.show(id)
    _make_empty(into)
    notes = [f"not in the copy: {line}" for line in copy.not_saved]
    try:
        with inside.folder(into) as root:
            committed = _commit(copy, root, notes)
            files = deleted = 0
            with store.contents(id) as contents:
                for entry in copy.entries:
                    path = os.fsencode(entry.path)
                    try:
                        with inside.parent(root, path, make=entry.kind != "deleted") as (here, name):
                            inside.remove(here, name)
                            if entry.kind == "file":
                                with contents.open(entry.member) as source, _new(here, name, entry.mode) as file:
                                    shutil.copyfileobj(source, file, 1 << 20)
                            elif entry.kind == "link":
                                os.symlink(os.fsencode(entry.target), name, dir_fd=here)
                    except inside.Outside as error:
                        if entry.kind != "deleted":  # whose folder is gone as well
                            notes.append(f"{shown(path)}: {error}")
                            continue
                    files, deleted = files + (entry.kind != "deleted"), deleted + (entry.kind == "deleted")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise CannotRestore(f"the copy {id} could not be written into {shown(into)}: {shown(reason)}") from error
    return Restored(str(into), committed, files, deleted, tuple(notes))


def _make_empty(into: Path) -> None:
    if not into.is_absolute():
        raise CannotRestore(f"{shown(into)} is not an absolute path")
    try:
        into.mkdir(parents=True, exist_ok=True)
        if any(into.iterdir()):
            raise CannotRestore(f"{shown(into)} is not empty: name a new folder")
    except (OSError, ValueError) as error:
        raise CannotRestore(f"{shown(into)} cannot be used: {shown(str(error))}") from error


def _commit(copy: Copy, root: int, notes: list[str]) -> int:
    """Write the files of the copy's commit, as they are stored; return how many."""
    try:
        repo = open_repo(Path(copy.root))
        tree = repo[copy.head].peel(pygit2.Tree)
    except (RepoProblem, pygit2.GitError, KeyError, ValueError):
        notes.append(
            f"the commit {copy.head[:12]} is no longer in {shown(copy.root)}: only what was not committed is here"
        )
        return 0
    try:
        return _tree(repo, tree, root, b"", notes)
    finally:
        repo.free()


def _tree(repo: pygit2.Repository, tree: pygit2.Tree, root: int, prefix: bytes, notes: list[str]) -> int:
    written = 0
    for entry in tree:
        path = prefix + (entry.raw_name or b"")
        try:
            if entry.filemode == FileMode.TREE:
                written += _tree(repo, repo[entry.id].peel(pygit2.Tree), root, path + b"/", notes)
                continue
            if entry.filemode == FileMode.COMMIT:
                notes.append(f"{shown(path)}: a submodule, left out")
                continue
            with inside.parent(root, path, make=True) as (here, name):
                data = repo[entry.id].peel(pygit2.Blob).data
                if entry.filemode == FileMode.LINK:
                    os.symlink(data, name, dir_fd=here)
                else:
                    mode = 0o755 if entry.filemode == FileMode.BLOB_EXECUTABLE else 0o644
                    with _new(here, name, mode) as file:
                        file.write(data)
            written += 1
        except inside.Outside as error:
            notes.append(f"{shown(path)}: {error}")
    return written


def _new(here: int, name: bytes, mode: int) -> BinaryIO:
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=here)
    os.fchmod(file, mode & 0o777)
    return os.fdopen(file, "wb")
