"""A checkout can be anything; reading it never holds the daemon, outlives it, or takes the machine."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from helpers.checkouts import checkout, write
from helpers.eventually import eventually

from daemon.apart import Apart
from daemon.git import RepoProblem
from daemon.restore import CannotRestore
from daemon.safety import Caps, NoCopy


@pytest.fixture
def apart(tmp_path):
    return Apart(tmp_path / "home", Caps(free_bytes=0))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "shop"


def readers(of: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(of).children() if "daemon.apart" in child.cmdline()]


async def test_it_looks_compares_saves_and_restores(apart, root, tmp_path):
    base = checkout(root)
    write(root, {"a.txt": "two\n", "sub/é.txt": "new\n"})
    found = await apart.look(root / "sub")
    diff = await apart.diff(root, base)
    saved = await apart.save(root, "r1", base)
    restored = await apart.restore(saved.id, tmp_path / "back")

    assert (found.root, found.head, found.dirty) == (root, base, True)
    assert [(file.path, file.status) for file in diff.files] == [("a.txt", "modified"), ("sub/é.txt", "added")]
    assert (saved.files, saved.not_saved, saved.error) == (2, (), "")
    assert restored.files == 2
    assert (tmp_path / "back" / "a.txt").read_text() == "two\n"


async def test_each_problem_keeps_its_sentence_and_kind(apart, root, tmp_path):
    with pytest.raises(RepoProblem, match="there is no such folder"):
        await apart.look(root)
    assert "there is no such folder" in (await apart.save(root, "r1", "")).error
    with pytest.raises(NoCopy, match="keeps no copy"):
        await apart.restore("nobody", tmp_path / "back")
    checkout(root)
    write(root, {"new": "x"})
    saved = await apart.save(root, "r1", "")
    with pytest.raises(CannotRestore, match="not empty"):
        await apart.restore(saved.id, root)


async def test_names_that_are_not_utf8_get_there_and_back(apart, tmp_path):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sh\xffop\n"))
    checkout(root)
    assert (await apart.look(root)).root == root


@pytest.mark.parametrize("trap", [".gitignore", ".gitattributes", ".git/index", ".git/info/exclude", ".git/config"])
async def test_a_pipe_in_the_way_ends_with_a_sentence_and_holds_nobody(apart, root, trap):
    base = checkout(root)
    write(root, {"new": "x"})
    (root / trap).unlink(missing_ok=True)
    os.mkfifo(root / trap)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.01)

    heart = asyncio.create_task(beat(), name="heart")
    with pytest.raises(RepoProblem, match="could not be read within 2 s"):
        await apart.diff(root, base, limit_s=2)
    heart.cancel()

    assert beats > 50
    assert readers(os.getpid()) == []


async def test_a_caller_that_gives_up_leaves_no_reader(apart, root):
    checkout(root)
    (root / ".git" / "index").unlink()
    os.mkfifo(root / ".git" / "index")
    looking = asyncio.create_task(apart.look(root), name="look")
    await eventually(lambda: readers(os.getpid()))
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking

    assert readers(os.getpid()) == []


async def test_a_reader_that_is_killed_is_one_sentence(apart, root):
    checkout(root)
    (root / ".git" / "index").unlink()
    os.mkfifo(root / ".git" / "index")
    looking = asyncio.create_task(apart.look(root), name="look")
    for reader in await eventually(lambda: readers(os.getpid())):
        reader.kill()
    with pytest.raises(RepoProblem, match="the checkout could not be read: it ended with -9"):
        await looking


async def test_a_reader_dies_with_its_daemon(root):
    checkout(root)
    (root / ".git" / "index").unlink()
    os.mkfifo(root / ".git" / "index")
    lines = """
import asyncio, sys
from pathlib import Path
from daemon.apart import Apart
asyncio.run(Apart(Path("/nowhere")).look(sys.argv[1]))
"""
    daemon = subprocess.Popen([sys.executable, "-c", lines, str(root)])
    (reader,) = await eventually(lambda: readers(daemon.pid))
    # Only once it hangs in libgit2 has it said whom it dies with.
    await eventually(lambda: reader.nice() == 10)
    daemon.kill()
    daemon.wait()

    await eventually(lambda: not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE)


async def test_a_reader_ends_by_its_own_alarm():
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "daemon.apart", "look", "0.5"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    await eventually(lambda: process.poll() is not None)
    process.communicate()
    assert process.returncode == -signal.SIGALRM


async def test_a_hostile_working_folder_lends_it_no_code(apart, root, tmp_path, monkeypatch):
    checkout(root)
    write(tmp_path / "evil", {"daemon/__init__.py": "1/0", "daemon/apart.py": "1/0", "pygit2.py": "1/0"})
    monkeypatch.chdir(tmp_path / "evil")

    assert (await apart.look(root)).repo_id == "local/shop"


async def test_many_at_once_take_turns(root, tmp_path):
    checkout(root)
    apart = Apart(tmp_path / "home", at_once=2)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(readers(os.getpid())))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch(), name="watch")
    found = await asyncio.gather(*(apart.look(root) for _ in range(8)))
    watching.cancel()

    assert len({repo.head for repo in found}) == 1
    assert most <= 2
