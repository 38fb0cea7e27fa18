"""What a part imports, its extra declares: an install of the daemon alone, or of the server alone, holds together."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"switchboard", "daemon", "switchboard_rpc"}
DISTRIBUTIONS = packages_distributions()


def named(lines: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", line)[0] for line in lines}


def imported(folder: str) -> set[str]:
    """Return the distributions of everything outside that the modules below *folder* import, at their top or later."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found |= {name.partition(".")[0] for name in names}
    third = found - sys.stdlib_module_names - OURS
    return {("protobuf" if name == "google" else DISTRIBUTIONS[name][0]).lower() for name in third}


BASE = named(PROJECT["dependencies"])
SERVER, DAEMON = (named(PROJECT["optional-dependencies"][extra]) for extra in ("server", "daemon"))


def test_what_the_server_imports_is_declared_and_needed():
    assert imported("switchboard") <= BASE | SERVER
    assert imported("switchboard") | {"httptools"} >= SERVER  # which uvicorn is told to take, by name


def test_what_the_daemon_imports_is_declared_and_needed():
    assert imported("daemon") <= BASE | DAEMON
    assert imported("daemon") >= DAEMON


def test_what_both_carry_is_for_the_wire_the_daemon_or_the_command_line():
    assert BASE - imported("daemon") - imported("switchboard/cli") <= imported("proto") | {"protobuf"}


def test_the_locks_agree_and_name_no_place_to_fetch_from():
    locks = {name: (ROOT / f"requirements{name}.lock").read_text() for name in ("", "-server", "-test")}
    pinned = {name: set(re.findall(r"^([\w.-]+==\S+)", lock, re.M)) for name, lock in locks.items()}

    assert pinned["-server"] < pinned[""] < pinned["-test"]
    assert {name.lower() for name in BASE | SERVER} <= {line.partition("==")[0] for line in pinned["-server"]}
    assert not any("://" in lock for lock in locks.values())
