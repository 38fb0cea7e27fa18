"""What a machine is told in daemon.toml, and one sentence for everything that it cannot be told."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.cli import main
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


class TestTheirPage:
    """docs/daemon.md tells what there is, no less and no more."""

    PAGE = (Path(__file__).parents[2] / "docs" / "daemon.md").read_text()

    def test_it_names_every_key_with_its_default(self, tmp_path: Path) -> None:
        rows = dict(re.findall(r"^\| `(\w+)` \| (?:`(.*)`)? ?\| .+ \|$", self.PAGE, re.M))
        (tmp_path / "daemon.toml").write_text("".join(f"{key} = {value}\n" for key, value in rows.items() if value))
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "daemon.toml").write_text("colour = 1")

        assert read(tmp_path) == Settings(home=tmp_path)
        with pytest.raises(BadSettings, match=f"these are known: {', '.join(sorted(rows))}$"):
            read(tmp_path / "bad")

    def test_its_example_is_taken(self, tmp_path: Path) -> None:
        [example] = re.findall(r"```toml\n(.*?)```", self.PAGE, re.S)
        (tmp_path / "daemon.toml").write_text(example)
        assert read(tmp_path).content_for("github.com/acme/shop") == "metadata"

    def test_it_names_every_command_and_only_options_that_are_there(self) -> None:
        assert set(re.findall(r"^\| `switchboard-daemon (\w+)", self.PAGE, re.M)) == set(main.commands)
        for name, row in re.findall(r"^\| `switchboard-daemon (\w+).*?` \| (.*) \|$", self.PAGE, re.M):
            there = {option for parameter in main.commands[name].params for option in parameter.opts}
            assert set(re.findall(r"`(--\w+)`", row)) <= there
