"""The diff on the card: true to the file, bounded, and blind outside the checkout."""

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.agents.edits import DIFF_LIMIT, FILE_LIMIT, diff

LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "\n", "d\r\n"]), max_size=40).map("".join)


@pytest.fixture
def cwd(tmp_path):
    made = tmp_path / "checkout"
    made.mkdir()
    return made


def write(path, content):
    return diff("Write", {"file_path": str(path), "content": content}, path.parent)


def test_an_edit_shows_its_surroundings(cwd):
    (cwd / "a.txt").write_text("".join(f"{n}\n" for n in range(1, 21)))
    call = {"file_path": str(cwd / "a.txt"), "old_string": "10\n11\n", "new_string": "ten\n"}

    assert diff("Edit", call, cwd) == (
        "--- a/a.txt\n+++ b/a.txt\n@@ -7,8 +7,7 @@\n 7\n 8\n 9\n-10\n-11\n+ten\n 12\n 13\n 14\n"
    )


@pytest.mark.parametrize(("all_of_them", "after"), [(True, "b b\n"), (False, "b a\n")])
def test_an_edit_replaces_one_or_all(cwd, all_of_them, after):
    (cwd / "a").write_text("a a\n")
    call = {"file_path": str(cwd / "a"), "old_string": "a", "new_string": "b", "replace_all": all_of_them}

    assert diff("Edit", call, cwd).endswith(f"-a a\n+{after}")


def test_several_edits_are_one_diff(cwd):
    (cwd / "a").write_text("1\n2\n")
    edits = [{"old_string": "1", "new_string": "one"}, {"old_string": "one\n2", "new_string": "both"}]

    assert diff("MultiEdit", {"file_path": str(cwd / "a"), "edits": edits}, cwd).endswith("-1\n-2\n+both\n")


@settings(max_examples=60, deadline=None)
@given(LINES, LINES)
def test_the_diff_is_exactly_the_change(tmp_path_factory, before, after):
    folder = tmp_path_factory.mktemp("patch")
    file = folder / "f"
    file.write_bytes(before.encode())

    shown = write(file, after)

    if before == after:
        assert shown == "the file already has this content\n"
        return
    subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], input=shown.encode(), cwd=folder, check=True)
    assert (file.read_bytes() if file.exists() else b"") == after.encode()


def test_a_file_without_a_last_newline_is_told(cwd):
    (cwd / "a").write_text("one")

    assert write(cwd / "a", "two\n").endswith("-one\n\\ No newline at end of file\n+two\n")


def test_a_great_change_is_cut_with_a_mark(cwd):
    shown = write(cwd / "a", "a line of text\n" * 100_000)

    assert len(shown.encode()) < DIFF_LIMIT + 100
    assert "cut here: the whole diff has" in shown


def test_many_changed_lines_are_not_compared_for_minutes(cwd):
    (cwd / "a").write_text("x\ny\n" * 50_000)

    shown = write(cwd / "a", "y\nz\n" * 50_000)

    assert shown.startswith("--- a/a\n+++ b/a\n@@ -1,100000 +1,100000 @@\n-x\n")


def links(cwd):
    secret = cwd.parent / "secret"
    secret.write_text("hunter2\n")
    (cwd / "link").symlink_to(secret)
    (cwd / "out").symlink_to(cwd.parent)


@pytest.mark.parametrize("path", ["link", "out/secret", "../secret", "{outside}"])
def test_nothing_outside_the_checkout_is_read(cwd, path):
    links(cwd)
    call = {"file_path": path.format(outside=cwd.parent / "secret"), "old_string": "hunter2", "new_string": "x"}

    shown = diff("Edit", call, cwd)

    assert shown.startswith("the file lies outside the checkout and was not read\n")
    assert "-hunter2" in shown  # the agent's own words
    call["old_string"] = "hunter"
    assert "hunter2" not in diff("Edit", call, cwd)


def test_a_fifo_is_not_waited_for(cwd):
    os.mkfifo(cwd / "pipe")

    assert write(cwd / "pipe", "x\n").startswith("the path is no regular file\n")


def test_a_folder_and_a_binary_and_a_huge_file_are_sentences(cwd):
    (cwd / "folder").mkdir()
    (cwd / "bytes").write_bytes(b"\x7fELF\0\0")
    (cwd / "latin").write_bytes(b"caf\xe9\n")
    (cwd / "huge").write_bytes(b"x" * (FILE_LIMIT + 1))

    assert write(cwd / "folder", "x").startswith("the path is no regular file\n")
    assert write(cwd / "bytes", "x").startswith("the file is binary\n")
    assert write(cwd / "latin", "x").startswith("the file is binary\n")
    assert write(cwd / "huge", "x").startswith(f"the file is {FILE_LIMIT + 1} bytes long and was not read\n")


def test_an_edit_that_does_not_fit_is_told_and_shown(cwd):
    (cwd / "a").write_text("one\n")
    call = {"file_path": str(cwd / "a"), "old_string": "two", "new_string": "three"}

    shown = diff("Edit", call, cwd)

    assert shown.startswith("the text to replace is not in the file\n")
    assert "-two" in shown
    assert "+three" in shown


def test_hostile_names_and_inputs_stay_one_line_and_never_raise(cwd):
    shown = diff("Write", {"file_path": "a\n+++ b/evil\x1b[2J", "content": "x\n"}, cwd)

    assert "\x1b" not in shown
    assert shown.count("+++ ") == 2  # the second stands inside the name, on the same line
    assert shown.splitlines()[1].startswith("+++ b/a\N{REPLACEMENT CHARACTER}+++")
    for call in ({}, {"file_path": 5}, {"file_path": "\0", "content": ""}, {"file_path": "a", "edits": "x"}):
        for tool in ("Edit", "Write", "MultiEdit", "NotebookEdit"):
            assert isinstance(diff(tool, call, cwd), str)


def test_a_notebook_cell_is_shown_with_what_becomes_of_it(cwd):
    call = {"notebook_path": "n.ipynb", "cell_id": "c1", "new_source": "print(1)\nprint(2)"}

    assert diff("NotebookEdit", call, cwd) == "replace in n.ipynb cell c1\n+print(1)\n+print(2)\n"
    assert diff("NotebookEdit", {**call, "edit_mode": "delete"}, cwd) == "delete in n.ipynb cell c1\n"


def test_a_tool_that_edits_nothing_has_no_diff(cwd):
    assert diff("Bash", {"command": "ls"}, cwd) == ""
