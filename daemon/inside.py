"""Reading and writing below a folder without ever leaving it: no link is followed, no component may be `..`."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Outside(Exception):
    """A path that leads out of its folder, or through something that is no folder; the text says why, without the path."""


@contextlib.contextmanager
def folder(path: Path) -> Iterator[int]:
    """Open *path* itself as the root of what follows."""
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield root
    finally:
        os.close(root)


@contextlib.contextmanager
def parent(root: int, path: bytes, make: bool = False) -> Iterator[tuple[int, bytes]]:
    """Open the folder that holds *path*; yield it with the last name. Raises Outside, OSError.

    With *make* its folders are made, and a link or file that stands in their way makes room.
    """
    *folders, name = parts(path)
    here = os.dup(root)
    try:
        for part in folders:
            below = _enter(here, part, make)
            os.close(here)
            here = below
        yield here, name
    finally:
        os.close(here)


def parts(path: bytes) -> list[bytes]:
    """Return the names that *path* is made of. Raises Outside for any that leads elsewhere, into a .git included."""
    names = path.split(b"/")
    if any(name in (b"", b".", b"..") or b"\0" in name or name.lower() == b".git" for name in names):
        raise Outside("its name leads out of the checkout")
    return names


@contextlib.contextmanager
def reading(root: int, path: bytes) -> Iterator[tuple[int, os.stat_result]]:
    """Open the plain file at *path*. Raises Outside when it is anything else, OSError."""
    with parent(root, path) as (here, name):
        try:
            # Not blocking, or a pipe by that name would hold us for ever.
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
        except OSError as error:
            raise Outside(f"cannot be read: {error.strerror}") from error
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise Outside("not a plain file")
        yield file, found
    finally:
        os.close(file)


def read(root: int, path: bytes, limit: int) -> bytes | None:
    """Return the whole of the plain file or the target of the link at *path*; None when it is over *limit*."""
    with parent(root, path) as (here, name):
        if stat.S_ISLNK(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
            return os.readlink(name, dir_fd=here)
    with reading(root, path) as (file, found):
        if found.st_size > limit:
            return None
        with open(file, "rb", closefd=False) as stream:
            data = stream.read(limit + 1)
        return data if len(data) <= limit else None


def remove(here: int, name: bytes) -> None:
    """Remove the file, link or whole folder *name*, if it is there."""
    try:
        found = os.stat(name, dir_fd=here, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=here)
        return
    below = os.open(name, _FOLDER, dir_fd=here)
    try:
        for entry in os.listdir(below):
            remove(below, os.fsencode(entry))
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=here)


def _enter(here: int, name: bytes, make: bool) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=here)
    except OSError as error:
        if not make:
            raise Outside(f"one of its folders cannot be entered: {error.strerror}") from error
    remove(here, name)
    os.mkdir(name, 0o777, dir_fd=here)
    return os.open(name, _FOLDER, dir_fd=here)
