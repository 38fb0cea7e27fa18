"""What this machine's daemon is told: DIR/daemon.toml, read once at the start, frozen, and handed down."""

import importlib.metadata
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = importlib.metadata.version("switchboard-fleet")
CONTENTS = ("full", "redacted", "metadata")


class BadSettings(Exception):
    """One sentence: which file and key, what is wrong with it, what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    home: Path
    claude: Path | None = None  # the program; None: PATH, then the one that came with the SDK
    agent_env: Mapping[str, str] = field(default_factory=dict)  # beside the daemon's own environment
    secrets: tuple[str, ...] = ()  # names of further environment variables whose values are masked
    repos: tuple[str, ...] = ()  # folders under which runs may start; empty: anywhere
    content: str = "full"  # what leaves the machine
    content_of: Mapping[str, str] = field(default_factory=dict)  # by repo
    idle_after_s: float = 900  # an idle session ends in good order
    expiry_s: float = 8 * 3600  # of a question that nobody answers
    interrupt_s: float = 2  # for the agent's own protocol, before signals
    grace_s: float = 5  # from SIGTERM to SIGKILL
    max_runs: int = 50
    journal_bytes: int | None = None
    spool_bytes: int | None = None
    output_bytes_per_s: int = 2 * 2**20  # of one run; above it events are dropped, marked and counted
    output_bytes: int = 256 * 2**20

    def content_for(self, repo: str) -> str:
        return self.content_of.get(repo, self.content)


def default_home() -> Path:
    """Return the user's data home for the daemon."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "switchboard-daemon"
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "switchboard-daemon"


def read(home: Path) -> Settings:
    """Return the settings of *home*; every key has a default. Raises BadSettings."""
    file = home / "daemon.toml"
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings(home=home)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{file} is not readable as TOML: {error}; mend that line or remove the file") from error
    except OSError as error:
        raise BadSettings(f"{file} cannot be read: {error.strerror}; give this user the right to read it") from error
    known = {name: value for name, value in raw.items() if name in _KEYS}
    for name in raw:
        if name not in _KEYS:
            raise BadSettings(f"{file}: there is no setting {name!r}; these are known: {', '.join(sorted(_KEYS))}")
    values: dict[str, Any] = {}
    for name, value in known.items():
        field_name, wanted, convert = _KEYS[name]
        try:
            values[field_name] = convert(value)
        except (TypeError, ValueError) as error:
            raise BadSettings(f"{file}: {name} must be {wanted}, not {value!r}; change that line") from error
    return Settings(home=home, **values)


def _path(value: Any) -> Path:
    path = Path(_text(value)).expanduser()
    if not path.is_absolute():
        raise ValueError
    return path


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(_text(entry) for entry in value)


def _folders(value: Any) -> tuple[str, ...]:
    return tuple(str(_path(entry)) for entry in _texts(value))


def _table(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError
    return {_text(name): entry if isinstance(entry, str) else _text(entry) for name, entry in value.items()}


def _content(value: Any) -> str:
    if value not in CONTENTS:
        raise ValueError
    return str(value)


def _contents(value: Any) -> dict[str, str]:
    return {name: _content(entry) for name, entry in _table(value).items()}


def _amount(least: float) -> Any:
    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 1e15:
            raise ValueError
        return value

    return convert


def _whole(least: int) -> Any:
    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError
        return value

    return convert


_KEYS: dict[str, tuple[str, str, Any]] = {
    "claude": ("claude", "the full path of a program", _path),
    "env": ("agent_env", 'a table of texts, such as { NAME = "value" }', _table),
    "secrets": ("secrets", "a list of names of environment variables", _texts),
    "repos": ("repos", "a list of full paths of folders", _folders),
    "content": ("content", 'one of "full", "redacted" and "metadata"', _content),
    "content_of": ("content_of", 'a table from a repo to "full", "redacted" or "metadata"', _contents),
    "idle_after_s": ("idle_after_s", "a number of seconds, at least 1", _amount(1)),
    "expiry_s": ("expiry_s", "a number of seconds, at least 1", _amount(1)),
    "interrupt_s": ("interrupt_s", "a number of seconds, at least 0", _amount(0)),
    "grace_s": ("grace_s", "a number of seconds, at least 0", _amount(0)),
    "max_runs": ("max_runs", "a whole number, at least 1", _whole(1)),
    "journal_bytes": ("journal_bytes", "a whole number of bytes, at least 262144", _whole(262144)),
    "spool_bytes": ("spool_bytes", "a whole number of bytes, at least 262144", _whole(262144)),
    "output_bytes_per_s": ("output_bytes_per_s", "a whole number of bytes, at least 1024", _whole(1024)),
    "output_bytes": ("output_bytes", "a whole number of bytes, at least 65536", _whole(65536)),
}
