"""A stop loses no work: what was not committed is kept, told and given back; what is not kept is named."""

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pygit2
import pytest
from helpers.checkouts import checkout, git, write
from helpers.clocks import StillClock
from helpers.crash import run_until

from daemon.restore import CannotRestore, restore
from daemon.safety import Caps, NoCopy, SafetyStore

CAPS = Caps(free_bytes=0)


@pytest.fixture
def clock():
    return StillClock()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "shop"


@pytest.fixture
def store(tmp_path, clock):
    return SafetyStore(tmp_path / "home", clock, CAPS)


def tree(root: Path) -> dict[str, object]:
    """Every file and link below *root* but git's own."""
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in [*files, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
            path = os.path.join(folder, name)
            key = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            if key.split("/")[0] == ".git":
                continue
            if os.path.islink(path):
                found[key] = ("link", os.readlink(path))
            else:
                found[key] = (stat.S_IMODE(os.stat(path).st_mode) & 0o100, Path(os.fsdecode(path)).read_bytes())
    return found


class TestSave:
    def test_what_is_restored_is_what_was_there(self, root, store, tmp_path):
        head = checkout(
            root,
            {
                "a.txt": "one\n",
                "gone/b.txt": "b\n",
                "kept.sh": "#!/bin/sh\n",
                "d/e/f.txt": "f\n",
                "swap/x": "x",
                "old": "o" * 99,
            },
        )
        shutil.rmtree(root / "gone")
        shutil.rmtree(root / "swap")
        write(root, {"a.txt": "two\n", "new/n.bin": bytes(range(256)) * 99, "swap": "a file now", "empty": b""})
        (root / "old").rename(root / "moved")
        (root / "kept.sh").chmod(0o755)
        (root / "link").symlink_to("/etc/passwd")
        (root / "d" / "up").symlink_to("..")
        for name in (b"bad\xff", b"new\nline", "txt\u202egpj".encode()):
            Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(name)
        git(root, "add", "new")
        saved = store.save(root, "r1", head)

        assert (saved.error, saved.not_saved, saved.head) == ("", (), head)
        assert saved.files == len(store.show(saved.id).entries)
        into = tmp_path / "back"
        done = restore(store, saved.id, into)
        assert tree(into) == tree(root)
        assert (done.committed, done.notes) == (6, ())
        assert done.deleted >= 3

    def test_the_links_are_not_followed(self, root, store):
        checkout(root, {"d/passwd": "mine\n"})
        shutil.rmtree(root / "d")
        (root / "d").symlink_to("/etc")
        saved = store.save(root, "r1", "")

        assert saved.bytes == 0
        assert {(entry.path, entry.kind) for entry in store.show(saved.id).entries} == {
            ("d", "link"),
            ("d/passwd", "deleted"),
        }

    def test_a_clean_checkout_needs_no_copy(self, root, store, tmp_path):
        head = checkout(root)
        saved = store.save(root, "r1", head)

        assert (saved.id, saved.head, saved.error) == ("", head, "")
        assert store.copies() == []

    def test_work_that_git_was_told_not_to_see_is_kept(self, root, store):
        checkout(root, {"au.txt": "one\n", ".gitignore": "*.ign\n"})
        git(root, "update-index", "--assume-unchanged", "au.txt")
        write(root, {"au.txt": "two\n", "forced.ign": "x"})
        git(root, "add", "-f", "forced.ign")
        saved = store.save(root, "r1", "")

        assert {entry.path for entry in store.show(saved.id).entries} == {"au.txt", "forced.ign"}

    def test_what_is_not_kept_is_named_with_its_reason(self, root, tmp_path, clock):
        checkout(tmp_path / "lib")
        checkout(root, {".gitignore": "build/\n*.log\n", "a.txt": "a"})
        git(root, "submodule", "add", "-q", str(tmp_path / "lib"), "sub")
        git(root, "commit", "-qm", "sub")
        git(root / "sub", "commit", "-q", "--allow-empty", "-m", "in sub")
        checkout(root / "nested")
        write(root, {"huge.bin": b"x" * 2000, ".env": "KEY=1", "certs/site.pem": "x", "build/out.o": "x", "x.log": "x"})
        write(root, {"small.txt": "s", "weird\nname.pem": "x"})
        os.mkfifo(root / "pipe")
        store = SafetyStore(tmp_path / "home", clock, replace(CAPS, file_bytes=1000))
        saved = store.save(root, "r1", "")

        assert set(saved.not_saved) == {
            ".env: looks like a credential",
            "certs/site.pem: looks like a credential",
            "weird\\nname.pem: looks like a credential",
            "huge.bin: over 0 MiB",
            "nested/: a repository of its own",
            "sub: a submodule",
            "build/: ignored by git",
            "x.log: ignored by git",
        }
        assert [entry.path for entry in store.show(saved.id).entries] == ["small.txt"]
        stored = b"".join(path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file())
        assert b"KEY=1" not in stored
        assert restore(store, saved.id, tmp_path / "back").notes[0].startswith("not in the copy: ")

    def test_the_whole_is_capped_in_bytes_and_time_and_by_the_disk(self, root, tmp_path, clock):
        checkout(root)
        write(root, {f"f{number}": b"x" * 400 for number in range(5)})
        for caps, why in (
            (replace(CAPS, total_bytes=1000), "the copy would be over 0 MiB"),
            (replace(CAPS, seconds=-1), "the time of -1 s was up"),
            (replace(CAPS, free_bytes=1 << 60), "the disk is nearly full"),
        ):
            saved = SafetyStore(tmp_path / "home", clock, caps).save(root, "r1", "")
            assert saved.error == ""
            assert saved.not_saved[-1] == f"f4: {why}"

    def test_ten_thousand_files_are_kept_and_the_list_of_others_is_bounded(self, root, store, tmp_path):
        checkout(root)
        for number in range(10_000):
            write(root, {f"d{number % 50}/f{number}.txt": f"{number}\n"})
        write(root, {f"keys/{number}.pem": "x" for number in range(1000)})
        saved = store.save(root, "r1", "")

        assert saved.files == 10_000
        assert len(saved.not_saved) == 201
        assert saved.not_saved[-1] == "… and 800 more"
        assert restore(store, saved.id, tmp_path / "back").files == 10_000

    @pytest.mark.parametrize("damage", ["gone", "no repository", "no commits", "elsewhere", "damaged"])
    def test_what_cannot_be_kept_is_an_error_in_the_answer(self, root, store, damage):
        if damage != "gone":
            root.mkdir()
        if damage == "no commits":
            git(root, "init", "-q")
        elif damage == "elsewhere":
            checkout(root)
            git(root, "config", "core.worktree", "/etc")
        elif damage == "damaged":
            checkout(root)
            shutil.rmtree(root / ".git" / "objects")
        saved = store.save(root, "r1", "")

        assert saved.id == ""
        assert saved.error
        assert "\n" not in saved.error
        assert store.copies() == []

    def test_a_home_that_takes_nothing_is_an_error_in_the_answer(self, root, tmp_path, clock):
        checkout(root)
        write(root, {"new": "x"})
        (tmp_path / "home").write_text("a file")
        saved = SafetyStore(tmp_path / "home", clock, CAPS).save(root, "r1", "")

        assert saved.error.startswith("cannot keep")

    def test_it_is_private_and_no_name_of_the_agent_is_a_name_on_the_disk(self, root, store, tmp_path):
        checkout(root)
        write(root, {"needle.txt": "x"})
        saved = store.save(root, "../../r1\n", "")
        folder = tmp_path / "home" / "safety"

        assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((folder / saved.id).stat().st_mode) == 0o700
        assert {path.name for path in folder.rglob("*")} == {saved.id, "manifest.json", "files.zip"}

    def test_no_program_of_the_repository_runs(self, root, store, tmp_path):
        checkout(root, {"a.dat": "one\n", ".gitattributes": "*.dat filter=evil\n"})
        for name in ("clean", "smudge", "process"):
            git(root, "config", f"filter.evil.{name}", f"touch {tmp_path}/ran-{name}; cat")
        git(root, "config", "core.fsmonitor", f"touch {tmp_path}/ran-fsmonitor;")
        for path in tmp_path.glob("ran-*"):
            path.unlink()
        write(root, {"a.dat": "two\n", "b.dat": "three\n"})
        saved = store.save(root, "r1", "")
        restore(store, saved.id, tmp_path / "back")

        assert saved.files == 2
        assert list(tmp_path.glob("ran-*")) == []


class TestRestore:
    def test_the_folder_must_be_new_or_empty_and_absolute(self, root, store, tmp_path):
        checkout(root)
        write(root, {"new": "x"})
        id = store.save(root, "r1", "").id
        (tmp_path / "file").write_text("")
        for into, sentence in [
            (root, "is not empty"),
            (Path("here"), "is not an absolute path"),
            (tmp_path / "file", "cannot be used"),
            (tmp_path / "file" / "below", "cannot be used"),
            (Path(f"{tmp_path}/nul\0"), "cannot be used"),
        ]:
            with pytest.raises(CannotRestore, match=sentence):
                restore(store, id, into)
        (tmp_path / "empty").mkdir()
        assert restore(store, id, tmp_path / "empty").files == 1

    @pytest.mark.parametrize("id", ["", "nobody", "../../etc", "..", "/etc", "a\0b"])
    def test_a_copy_that_is_not_there_is_one_sentence(self, store, tmp_path, id):
        with pytest.raises(NoCopy, match="this machine keeps no copy"):
            restore(store, id, tmp_path / "back")
        assert not (tmp_path / "back").exists()

    def test_without_the_repository_what_was_not_committed_is_still_there(self, root, store, tmp_path):
        checkout(root)
        write(root, {"new": "x"})
        saved = store.save(root, "r1", "")
        shutil.rmtree(root)
        done = restore(store, saved.id, tmp_path / "back")

        assert (done.committed, done.files) == (0, 1)
        assert "is no longer in" in done.notes[0]
        assert (tmp_path / "back" / "new").read_text() == "x"

    def test_a_forged_commit_or_manifest_writes_nothing_outside(self, root, store, tmp_path):
        checkout(root)
        write(root, {"new": "x"})
        repo = pygit2.Repository(str(root))
        blob = repo.create_blob(b"evil")
        raw = b"100644 ../evil\0" + blob.raw + b"120000 a\0" + repo.create_blob(b"..").raw + b"100644 .git\0" + blob.raw
        inner = repo.odb.write(pygit2.enums.ObjectType.TREE, b"100644 evil\0" + blob.raw)
        forged = repo.odb.write(pygit2.enums.ObjectType.TREE, raw + b"40000 b\0" + inner.raw)
        who = pygit2.Signature("kim", "kim@example.org")
        repo.set_head(repo.create_commit("refs/heads/forged", who, who, "forged", forged, []) and "refs/heads/forged")
        saved = store.save(root, "r1", "")
        assert saved.error == "", saved
        manifest = tmp_path / "home" / "safety" / saved.id / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"path": "new"', '"path": "a/../../evil2"'))
        done = restore(store, saved.id, tmp_path / "deep" / "back")

        assert not list(tmp_path.rglob("evil2"))
        assert {path.relative_to(tmp_path) for path in tmp_path.rglob("evil")} <= {Path("deep/back/b/evil")}
        assert any("leads out" in note for note in done.notes)

    def test_a_damaged_copy_is_one_sentence(self, root, store, tmp_path):
        checkout(root)
        write(root, {"new": "x" * 5000})
        id = store.save(root, "r1", "").id
        folder = tmp_path / "home" / "safety" / id
        (folder / "files.zip").write_bytes(b"garbage")
        with pytest.raises(NoCopy, match="cannot be read"):
            restore(store, id, tmp_path / "one")
        (folder / "manifest.json").write_text('{"format": 1}')
        with pytest.raises(NoCopy, match="cannot be read"):
            restore(store, id, tmp_path / "two")
        assert store.copies() == []
        (folder / "manifest.json").write_text('{"format": 9}')
        with pytest.raises(NoCopy, match="younger daemon"):
            store.show(id)


class TestKeeping:
    def test_copies_are_listed_the_newest_first_and_expire(self, root, store, clock):
        checkout(root)
        write(root, {"new": "x"})
        first = store.save(root, "r1", "").id
        clock.pass_ms(1000)
        second = store.save(root, "r2", "").id

        assert [(copy.id, copy.run, copy.entries) for copy in store.copies()] == [(second, "r2", ()), (first, "r1", ())]
        fortnight = 14 * 86_400_000
        assert store.expire(clock.wall_ms() + fortnight - 1001) == []
        assert store.expire(clock.wall_ms() + fortnight - 1000) == [first]
        assert [copy.id for copy in store.copies()] == [second]

    def test_a_purge_forgets_the_copies_of_its_run(self, root, store, tmp_path):
        checkout(root)
        write(root, {"new": "x"})
        for run in ("r1", "r1", "r2"):
            store.save(root, run, "")

        assert store.purge("r1") == 2
        assert store.purge("r1") == 0
        assert [copy.run for copy in store.copies()] == ["r2"]
        assert len(list((tmp_path / "home" / "safety").iterdir())) == 1

    @pytest.mark.parametrize("fault", ["safety.writing", "safety.written"])
    def test_kill_9_leaves_a_whole_copy_or_none(self, root, store, clock, tmp_path, fault):
        checkout(root)
        write(root, {"new": "x"})
        lines = """
import sys
from pathlib import Path
from daemon.clock import SystemClock
from daemon.safety import Caps, SafetyStore
SafetyStore(Path(sys.argv[1]), SystemClock(), Caps(free_bytes=0)).save(Path(sys.argv[2]), "r1", "")
"""
        run_until(fault, lines, str(tmp_path / "home"), str(root))
        copies = store.copies()

        assert len(copies) == (1 if fault == "safety.written" else 0)
        assert store.expire(0) == []
        assert len(list((tmp_path / "home" / "safety").iterdir())) == len(copies)
        for copy in copies:
            assert restore(store, copy.id, tmp_path / "back").files == 1

    def test_no_descriptor_is_leaked(self, root, store, tmp_path):
        checkout(root)
        write(root, {"new": "x", "d/e/f": "y"})
        store.save(root, "r1", "")
        before = len(os.listdir("/proc/self/fd"))
        for number in range(5):
            restore(store, store.save(root, "r1", "").id, tmp_path / f"back{number}")
        assert len(os.listdir("/proc/self/fd")) == before
