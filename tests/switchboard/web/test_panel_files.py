"""The page's files as they lie in the tree: what is vendored is what was fetched, and nothing makes markup of a string."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from helpers.house import House

from switchboard.web.shell import PANEL

TOOL = Path(__file__).parents[3] / "tools" / "vendor.py"
OURS = [path for path in PANEL.rglob("*.js") if "vendor" not in path.parts]


def test_the_vendored_files_are_those_that_were_fetched():
    spec = importlib.util.spec_from_file_location("vendor", TOOL)
    assert spec
    assert spec.loader
    vendor = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(vendor)

    table = tomllib.loads((PANEL / "vendor" / "VENDOR.toml").read_text())

    assert vendor.problems(table, PANEL / "vendor") == []
    assert all(package["licence"] in {"MIT", "Apache-2.0"} for package in table["package"])


def test_only_one_file_knows_where_the_libraries_are():
    assert [path.name for path in OURS if "/vendor/" in path.read_text()] == ["lib.js"]


def test_no_file_of_ours_makes_markup_or_code_of_a_string():
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|dangerouslySet|srcdoc|javascript:"
    )
    assert [path.name for path in OURS if forbidden.search(path.read_text())] == []


def test_every_import_is_relative_and_there():
    for path in [*OURS, *PANEL.glob("vendor/*.js")]:
        for name in re.findall(r"""(?:from|import)\s*["']([^"']+)["']""", path.read_text()):
            assert name.startswith("."), (path.name, name)
            assert (path.parent / name).resolve().is_file(), (path.name, name)


def test_the_linter_has_nothing_to_say():
    linter = Path(sys.executable).with_name("oxlint")
    assert linter.is_file(), "oxlint is missing: it comes with requirements-test.lock"
    said = subprocess.run(
        [linter, "--deny-warnings", "-c", PANEL / ".oxlintrc.json", PANEL], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout


async def test_the_first_load_stays_small(home: House):
    import gzip

    script = sum(len(gzip.compress(path.read_bytes())) for path in PANEL.rglob("*.js"))
    style = sum(len(gzip.compress(path.read_bytes())) for path in PANEL.rglob("*.css"))
    assert script <= 60 * 1024
    assert style <= 8 * 1024
