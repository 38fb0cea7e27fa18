"""The diagrams say what the tables say; the documents name only what is there."""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path

import pytest

from daemon.domain import approval as daemon_approval
from daemon.domain import run as daemon_run
from daemon.domain import stop_ladder
from switchboard.cli import cli
from switchboard.domain import approval, instruction

ROOT = Path(__file__).parents[3]
DOCS = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "SECURITY.md"])
EDGE = re.compile(r"^\s*(\w+) --> (\w+)(?:: (.*))?$")

Edges = set[tuple[str, str, str]]


def diagram(name: str) -> Edges:
    """Return the edges of the diagram that calls itself *name*; several events may share an arrow."""
    for text in (path.read_text() for path in DOCS):
        for drawing in re.findall(r"```mermaid\n(.*?)```", text, re.S):
            if f"%% {name}\n" in drawing:
                found = filter(None, map(EDGE.match, drawing.splitlines()))
                return {(m[1], m[2], event) for m in found for event in (m[3] or "").split(" / ")}
    raise AssertionError(f"no page of docs/ has a diagram called {name}")


def moves(table: Mapping[StrEnum, Mapping[StrEnum, StrEnum]]) -> Edges:
    """Return the edges of a table but those that stay where they are."""
    return {(at.value, to.value, e.value) for at, row in table.items() for e, to in row.items() if to is not at}


def ladder() -> Edges:
    ends = {stop_ladder.Do.DONE, stop_ladder.Do.GIVE_UP}
    rows = ((at, to, do, sight) for at, row in stop_ladder.MOVES.items() for sight, (to, do) in row.items())
    return {
        (at.value, do.value if do in ends else to.value, sight.value)
        for at, to, do, sight in rows
        if to is not at or do in ends
    }


def instructions() -> Edges:
    return {(at.value, to.value, "") for at, row in instruction.MOVES.items() for to in row if to is not at}


@pytest.mark.parametrize(
    ("name", "edges"),
    [
        ("run", moves(daemon_run.MOVES)),
        ("approval", moves(daemon_approval.MOVES)),
        ("ladder", ladder()),
        ("instruction", instructions()),
    ],
)
def test_a_diagram_says_what_its_table_says(name: str, edges: Edges) -> None:
    assert diagram(name) == edges


def test_server_and_daemon_agree_on_where_an_approval_can_go() -> None:
    def ends(edges: Edges) -> set[tuple[str, str]]:
        return {(at, to) for at, to, _ in edges}

    assert ends(moves(approval.MOVES)) == ends(moves(daemon_approval.MOVES))


def links() -> Iterable[tuple[Path, str]]:
    for page in DOCS:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            yield page, target
        for target in re.findall(
            r"`((?:switchboard|daemon|docs|tests|proto)/[\w/.]+\.(?:py|md|proto))`", page.read_text()
        ):
            yield ROOT / "any", target


@pytest.mark.parametrize(("page", "target"), [pytest.param(p, t, id=f"{p.name}:{t}") for p, t in links()])
def test_a_document_names_only_what_is_there(page: Path, target: str) -> None:
    assert (page.parent / target).exists()


def test_the_readme_names_only_commands_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"^ *switchboard ([a-z][a-z -]*)", text, re.M) + re.findall(
        r"`switchboard ([a-z][a-z -]*)", text
    )
    assert lines
    for line in lines:
        words = line.split()
        assert words[0] in cli.commands, f"README says `switchboard {line}`"
        subcommands = getattr(cli.commands[words[0]], "commands", None)
        if subcommands and len(words) > 1:
            assert words[1] in subcommands, f"README says `switchboard {line}`"
