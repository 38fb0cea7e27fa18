"""A checkout is read as it is on the disk: hostile names, links, attributes and programs of the repository change nothing."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers.checkouts import checkout, git, write

from daemon.git import FILE_CAP, MAX_FILES, READ_CAP, TOTAL_CAP, RepoProblem, diff, look


@pytest.fixture
def root(tmp_path):
    return tmp_path / "shop"


def by_path(found):
    return {file.path: file for file in found.files}


class TestLook:
    def test_it_says_what_the_checkout_is(self, root):
        head = checkout(root)
        git(root, "remote", "add", "upstream", "https://example.org/other.git")
        git(root, "remote", "add", "origin", "https://ana:hunter2@GitHub.com/Acme/Shop.git")
        (root / "sub").mkdir()
        found = look(root / "sub")

        assert found.root == root
        assert found.repo_id == "github.com/Acme/Shop"
        assert (found.branch, found.head, found.dirty) == ("main", head, False)
        write(root, {"new.txt": "x"})
        assert look(str(root)).dirty

    def test_without_a_remote_it_is_local(self, root):
        checkout(root)
        assert look(root).repo_id == "local/shop"
        git(root, "remote", "add", "origin", "/srv/git/shop.git")
        assert look(root).repo_id == "local/shop"
        git(root, "remote", "add", "backup", "git@host:a/b.git")
        assert look(root).repo_id == "host/a/b"

    def test_a_hostile_remote_is_cleaned(self, root):
        checkout(root)
        with (root / ".git" / "config").open("a") as config:
            config.write('[remote "origin"]\n\turl = "https://host/a\x1b[2J\\n\\tb/' + "x" * 5000 + '.git"\n')
        id = look(root).repo_id

        assert id.startswith("host/a[2Jb/x")
        assert len(id) == 255

    def test_a_detached_head_has_no_branch_and_a_worktree_is_a_checkout(self, root, tmp_path):
        head = checkout(root)
        git(root, "worktree", "add", "-q", "--detach", str(tmp_path / "other"), "HEAD")
        found = look(tmp_path / "other")

        assert (found.root, found.branch, found.head) == (tmp_path / "other", "", head)

    def test_a_link_to_a_checkout_is_that_checkout(self, root, tmp_path):
        checkout(root)
        (tmp_path / "link").symlink_to(root)
        assert look(tmp_path / "link").root == root

    def test_a_folder_that_is_not_utf8(self, tmp_path):
        root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sh\xffop"))
        base = checkout(root)
        write(root, {"a.txt": "two\n"})

        assert look(root).repo_id == "local/sh\\377op"
        assert [file.path for file in diff(root, base).files] == ["a.txt"]

    def test_each_thing_that_is_no_checkout_has_its_sentence(self, root, tmp_path):
        (tmp_path / "file").write_text("")
        (tmp_path / "plain").mkdir()
        (tmp_path / "loop").symlink_to("loop")
        git(tmp_path, "init", "-q", "--bare", "bare.git")
        git(tmp_path, "init", "-q", "empty")
        (tmp_path / "broken" / ".git").mkdir(parents=True)
        for path, sentence in [
            ("relative/path", "is not an absolute path"),
            (tmp_path / "gone", "there is no such folder"),
            (tmp_path / "gone\n\x1b[2J", r"gone\\n\\033\[2J cannot be opened"),
            (tmp_path / "file", "is not a folder"),
            (tmp_path / "plain", "is not in a git repository"),
            (tmp_path / "loop", "cannot be opened on this machine"),
            (tmp_path / "bare.git", "is a bare repository"),
            (tmp_path / "empty", "has no commits yet"),
            (tmp_path / "broken", "cannot be read as a git repository"),
            (f"{tmp_path}/nul\0", "cannot be opened on this machine"),
            (f"/{'x' * 5000}", "cannot be opened on this machine"),
        ]:
            with pytest.raises(RepoProblem, match=sentence) as raised:
                look(path)
            assert "\n" not in str(raised.value)

    def test_files_elsewhere_are_not_looked_at(self, root, tmp_path):
        base = checkout(root)
        (tmp_path / "elsewhere").mkdir()
        git(root, "config", "core.worktree", str(tmp_path / "elsewhere"))
        for look_at in (lambda: look(root), lambda: diff(root, base)):
            with pytest.raises(RepoProblem, match=r"core\.worktree"):
                look_at()


class TestDiff:
    def test_every_kind_of_change_is_told(self, root):
        files = {
            "mod.txt": "one\n",
            "gone.txt": "bye\n",
            "old.txt": "".join(f"{n}\n" for n in range(40)),
            "kept.txt": "k\n",
        }
        base = checkout(root, files)
        (root / "old.txt").rename(root / "moved.txt")
        (root / "gone.txt").unlink()
        write(root, {"mod.txt": "one\ntwo\n", "dir/new.txt": "a\nb\n", "bin": bytes(range(256))})
        found = diff(root, base)
        files = by_path(found)

        assert {path: file.status for path, file in files.items()} == {
            "bin": "added",
            "dir/new.txt": "added",
            "gone.txt": "deleted",
            "mod.txt": "modified",
            "moved.txt": "renamed",
        }
        assert (files["mod.txt"].additions, files["mod.txt"].deletions) == (1, 0)
        assert "+two\n" in files["mod.txt"].patch
        assert files["dir/new.txt"].patch.startswith("diff --git a/dir/new.txt b/dir/new.txt\nnew file")
        assert files["moved.txt"].old_path == "old.txt"
        assert files["bin"].binary
        assert files["bin"].patch == ""
        assert found.count == 5

    def test_commits_since_the_start_are_part_of_it(self, root):
        base = checkout(root)
        write(root, {"a.txt": "two\n", "b.txt": "new\n"})
        git(root, "add", "-A")
        git(root, "commit", "-qm", "second")
        git(root, "checkout", "-q", "-b", "other")

        assert set(by_path(diff(root, base))) == {"a.txt", "b.txt"}

    def test_nothing_is_hidden_by_what_the_agent_may_write(self, root):
        base = checkout(root, {"au.txt": "one\n", "sw.txt": "one\n", "code.py": "one\n", ".gitignore": "*.ign\n"})
        git(root, "update-index", "--assume-unchanged", "au.txt")
        git(root, "update-index", "--skip-worktree", "sw.txt")
        write(
            root,
            {"au.txt": "two\n", "sw.txt": "two\n", "code.py": "two\n", "forced.ign": "hidden\n", "left.ign": "no\n"},
        )
        write(root, {".git/info/attributes": "*.py -diff\n*.txt binary\n"})
        git(root, "add", "-f", "forced.ign")
        git(root, "commit", "-qm", "second")
        files = by_path(diff(root, base))

        assert set(files) == {"au.txt", "sw.txt", "code.py", "forced.ign"}
        assert "+hidden\n" in files["forced.ign"].patch
        assert all("+two\n" in files[name].patch for name in ("au.txt", "sw.txt", "code.py"))

    def test_no_program_of_the_repository_runs(self, root, tmp_path):
        base = checkout(root, {"a.dat": "one\n", ".gitattributes": "*.dat filter=evil diff=evil merge=evil\n"})
        ran = tmp_path / "ran"
        ran.mkdir()
        script = tmp_path / "evil.sh"
        script.write_text(f"#!/bin/sh\ntouch {ran}/$1\ncat\n")
        script.chmod(0o755)
        hooks = tmp_path / "hooks"
        hooks.mkdir()
        for hook in ("post-index-change", "fsmonitor-watchman", "post-checkout", "reference-transaction"):
            (hooks / hook).write_text(f"#!/bin/sh\ntouch {ran}/{hook}\n")
            (hooks / hook).chmod(0o755)
        for key, value in {
            "filter.evil.clean": f"{script} clean",
            "filter.evil.smudge": f"{script} smudge",
            "filter.evil.process": f"{script} process",
            "filter.evil.required": "true",
            "diff.evil.textconv": f"{script} textconv",
            "diff.evil.command": f"{script} command",
            "diff.external": f"{script} external",
            "core.hooksPath": str(hooks),
            "core.fsmonitor": f"{script} fsmonitor",
            "core.pager": f"{script} pager",
            "core.sshCommand": f"{script} ssh",
        }.items():
            git(root, "config", key, value)
        for path in ran.iterdir():  # setting the trap set it off
            path.unlink()
        write(root, {"a.dat": "two\n", "b.dat": "new\n"})
        look(root)
        files = by_path(diff(root, base))

        assert list(ran.iterdir()) == []
        assert "+two\n" in files["a.dat"].patch
        # The trap is armed: git itself falls into it.
        subprocess.run(["git", "status"], cwd=root, capture_output=True)
        assert {path.name for path in ran.iterdir()} >= {"fsmonitor"}

    def test_line_ends_are_compared_as_git_does(self, root):
        base = checkout(root, {"a.txt": b"one\r\ntwo\r\n", ".gitattributes": "*.txt text eol=crlf\n"})
        assert diff(root, base).files == ()
        write(root, {"a.txt": b"one\r\nthree\r\n"})
        assert by_path(diff(root, base))["a.txt"].additions == 1

    def test_links_are_shown_as_links_and_never_followed(self, root):
        base = checkout(root, {"d/passwd": "mine\n", "lnk": "text\n"})
        shutil.rmtree(root / "d")
        (root / "d").symlink_to("/etc")
        (root / "lnk").unlink()
        (root / "lnk").symlink_to("/etc/passwd")
        (root / "new").symlink_to("/etc/shadow")
        (root / "loop").symlink_to("loop")
        os.mkfifo(root / "pipe")
        files = by_path(diff(root, base))

        assert set(files) == {"d", "d/passwd", "lnk", "new", "loop"}
        assert "+/etc/shadow" in files["new"].patch
        assert files["lnk"].status == "retyped"
        assert "+/etc/passwd" in files["lnk"].patch
        assert "-text" in files["lnk"].patch
        assert files["d/passwd"].status == "deleted"
        assert not any("root:" in file.patch for file in files.values())

    def test_a_link_that_becomes_a_file_shows_the_file(self, root):
        root.mkdir()
        (root / "lnk").symlink_to("a.txt")
        base = checkout(root)
        (root / "lnk").unlink()
        write(root, {"lnk": "now a file\n"})

        assert "+now a file\n" in by_path(diff(root, base))["lnk"].patch

    def test_submodules_are_ids_and_nested_repositories_are_named(self, root, tmp_path):
        checkout(tmp_path / "lib")
        checkout(root)
        git(root, "submodule", "add", "-q", str(tmp_path / "lib"), "sub")
        git(root, "commit", "-qm", "with sub")
        base = git(root, "rev-parse", "HEAD")
        git(root / "sub", "commit", "-q", "--allow-empty", "-m", "in sub")
        checkout(root / "nested", {"inner.txt": "x"})
        files = by_path(diff(root, base))

        assert files["sub"].patch.count("Subproject commit") == 2
        assert files["nested/"].note == "a repository of its own: not shown"
        assert files["nested/"].truncated

    def test_hostile_names_are_printable(self, root):
        base = checkout(root)
        for name in (b"new\nline", b"bad\xff.txt", b"esc\x1b[2J", "txt\u202egpj".encode(), b"-rf", b"a b", b'q"uote'):
            (Path(os.fsdecode(os.fsencode(root) + b"/" + name))).write_text("x\n")
        names = [file.path for file in diff(root, base).files]

        assert sorted(names) == sorted(
            ["new\\nline", "bad\\377.txt", "esc\\033[2J", "txt\\u202egpj", "-rf", "a b", 'q"uote']
        )

    def test_text_that_is_no_utf8_is_shown_anyway(self, root):
        base = checkout(root)
        write(root, {"latin.txt": b"caf\xe9\n"})

        assert "+caf\ufffd\n" in by_path(diff(root, base))["latin.txt"].patch

    def test_a_long_patch_is_cut_at_a_line_and_says_so(self, root):
        base = checkout(root)
        write(root, {"long.txt": "a line of text\n" * 100_000, "huge.bin": b"\0" * (READ_CAP + 1)})
        found = diff(root, base)
        files = by_path(found)

        assert found.count == len(files) == 2
        assert files["long.txt"].truncated
        assert len(files["long.txt"].patch.encode()) <= FILE_CAP
        assert files["long.txt"].patch.endswith("\n")
        assert files["long.txt"].additions == 100_000
        assert files["long.txt"].note.startswith("cut here: ")
        assert files["huge.bin"].note == f"too large to show: {READ_CAP + 1:,} bytes"

    def test_ten_thousand_files_are_bounded(self, root):
        base = checkout(root)
        for number in range(10_000):
            write(root, {f"d{number % 100}/f{number}.txt": "line\n" * 200})
        found = diff(root, base)

        assert found.count == 10_000
        assert len(found.files) == MAX_FILES
        assert sum(len(file.patch.encode()) for file in found.files) <= TOTAL_CAP
        assert found.files[-1].note == "left out: the whole diff is too large"

    def test_when_the_time_is_up_the_rest_is_named(self, root):
        base = checkout(root)
        write(root, {"b.txt": "x\n"})
        (file,) = diff(root, base, limit_s=-1).files

        assert (file.path, file.patch, file.note) == ("b.txt", "", "left out: the time was up")

    def test_a_base_that_is_gone_is_one_sentence(self, root):
        checkout(root)
        for base in ("0" * 40, "", "HEAD~7", "nonsense\n", "\ud800"):
            with pytest.raises(RepoProblem, match="at which the run started is no longer in"):
                diff(root, base)

    @pytest.mark.parametrize("damage", ["index", "HEAD", "objects", "config"])
    def test_a_damaged_repository_is_one_sentence(self, root, damage):
        base = checkout(root)
        path = root / ".git" / damage
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.write_bytes(b"[[[\0garbage\xff")
        with pytest.raises(RepoProblem):
            look(root)
        if damage != "HEAD":  # which a diff against a commit does not need
            with pytest.raises(RepoProblem):
                diff(root, base)

    def test_a_file_that_cannot_be_read_is_named(self):
        lines = """
import os, sys
from pathlib import Path
import pygit2
from daemon.git import diff
if os.getuid() == 0:
    os.setuid(65534)
pygit2.settings.owner_validation = False
print([(file.path, file.patch, file.note) for file in diff(Path(sys.argv[1]), sys.argv[2]).files])
"""
        with tempfile.TemporaryDirectory() as folder:  # one that another user may enter
            Path(folder).chmod(0o755)
            root = Path(folder) / "shop"
            base = checkout(root)
            write(root, {"closed.txt": "x\n"})
            (root / "closed.txt").chmod(0)
            command = [sys.executable, "-c", lines, str(root), base]
            done = subprocess.run(command, env={**os.environ, "HOME": folder}, capture_output=True, text=True)

        assert done.stdout == "[('closed.txt', '', 'cannot be read')]\n", done.stderr

    def test_somebody_elses_repository_says_what_to_do(self, root):
        checkout(root)
        if os.getuid() == 0:
            os.chown(root, 65534, 65534)
            os.chown(root / ".git", 65534, 65534)
        else:  # who may give nothing away can still name a folder of root's as the checkout's
            git(root, "config", "core.worktree", "/usr")
        with pytest.raises(RepoProblem, match=r"belongs to another user: .*safe\.directory"):
            look(root)
