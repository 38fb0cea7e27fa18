"""Nothing is read or written outside of the folder, whatever the names and links in it say."""

import os

import pytest

from daemon import inside


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "d").mkdir(parents=True)
    (tmp_path / "root" / "d" / "f").write_bytes(b"mine")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_bytes(b"theirs")
    (tmp_path / "root" / "link").symlink_to("../outside")
    (tmp_path / "root" / "flink").symlink_to("../outside/f")
    os.mkfifo(tmp_path / "root" / "pipe")
    with inside.folder(tmp_path / "root") as root:
        yield root


@pytest.mark.parametrize(
    "path",
    [
        b"../outside/f",
        b"/etc/passwd",
        b"d/../../outside/f",
        b"",
        b"d//f",
        b"./d/f",
        b".git/config",
        b"d/.GIT/x",
        b"d\0/f",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(root, path):
    with pytest.raises(inside.Outside):
        inside.read(root, path, 100)


def test_links_are_read_as_links_and_not_walked_through(root):
    assert inside.read(root, b"d/f", 100) == b"mine"
    assert inside.read(root, b"flink", 100) == b"../outside/f"
    with pytest.raises(inside.Outside):
        inside.read(root, b"link/f", 100)


def test_a_pipe_or_folder_does_not_hold_anybody(root):
    for name in (b"pipe", b"d"):
        with pytest.raises(inside.Outside, match="not a plain file"), inside.reading(root, name):
            pass


def test_what_is_over_the_limit_is_not_read(root):
    assert inside.read(root, b"d/f", 3) is None


def test_a_link_in_the_way_makes_room_and_its_target_stays(root, tmp_path):
    with inside.parent(root, b"link/new/f", make=True) as (here, name):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=here))

    assert (tmp_path / "root" / "link" / "new" / "f").exists()
    assert not (tmp_path / "root" / "link").is_symlink()
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["f"]


def test_removing_a_folder_does_not_follow_its_links(root, tmp_path):
    (tmp_path / "root" / "d" / "deep").symlink_to("../../outside")
    inside.remove(root, b"d")
    inside.remove(root, b"nobody")

    assert not (tmp_path / "root" / "d").exists()
    assert (tmp_path / "outside" / "f").exists()
