"""What a machine is told in daemon.toml, and one sentence for everything that it cannot be told."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.settings import BadSettings, Settings, read


def test_without_a_file_everything_has_a_default(tmp_path: Path) -> None:
    assert read(tmp_path) == Settings(home=tmp_path)


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "daemon.toml").write_text(
        """
        claude = "/opt/claude"
        repos = ["/home/ana/src"]
        content = "redacted"
        idle_after_s = 60
        max_runs = 3
        [env]
        EMPTY = ""
        [content_of]
        "example.org/shop" = "metadata"
        """
    )
    found = read(tmp_path)

    assert found.claude == Path("/opt/claude")
    assert (found.idle_after_s, found.max_runs, found.repos) == (60, 3, ("/home/ana/src",))
    assert found.agent_env == {"EMPTY": ""}
    assert (found.content_for("example.org/shop"), found.content_for("another")) == ("metadata", "redacted")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("idle_after_s = \nmax_runs = 1", "line 1"),
        ("\n\nx = [\n[", "at end of document"),
        ("colour = 1", "there is no setting 'colour'; these are known: claude,"),
        ("idle_after_s = true", "idle_after_s must be a number of seconds, at least 1, not True"),
        ("max_runs = 0", "max_runs must be a whole number, at least 1, not 0"),
        ('claude = "claude"', "claude must be the full path of a program"),
        ('repos = "/x"', "repos must be a list of full paths"),
        ('content = "some"', 'content must be one of "full", "redacted" and "metadata", not \'some\''),
        ("env = 3", "env must be a table of texts"),
        ("[content_of]\nx = 1", "content_of must be a table from a repo"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "daemon.toml").write_text(text)

    with pytest.raises(BadSettings) as told:
        read(tmp_path)
    assert why in str(told.value)
    assert str(tmp_path / "daemon.toml") in str(told.value)
    assert "\n" not in str(told.value)


def test_bytes_that_are_no_text_and_a_folder_in_its_place_are_told(tmp_path: Path) -> None:
    (tmp_path / "daemon.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadSettings, match="is not readable as TOML"):
        read(tmp_path)
    (tmp_path / "daemon.toml").unlink()
    (tmp_path / "daemon.toml").mkdir()
    with pytest.raises(BadSettings, match="cannot be read"):
        read(tmp_path)


@given(st.sampled_from(["claude", "env", "repos", "content", "max_runs", "idle_after_s", "secrets", "x"]), st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_is_more_than_a_sentence(tmp_path: Path, name: str, value: str) -> None:
    (tmp_path / "daemon.toml").write_text(f"{name} = {value}", encoding="utf-8", errors="replace")
    told = ""
    try:
        read(tmp_path)
    except BadSettings as error:
        told = str(error)
    assert "\n" not in told
