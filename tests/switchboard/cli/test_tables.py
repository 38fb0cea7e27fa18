"""Tables on terminals of every width: ids stay whole, so that they can be copied, and a row is a row."""

import io
from typing import Any

import pytest
from rich.console import Console

from switchboard.cli.tables import (
    RUN_HEADERS,
    Grid,
    agent_line,
    machine_state,
    order_rows_table,
    runs_table,
    safety_line,
)


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    known = {
        "id": f"r-{number:012}",
        "state": "waiting",
        "machine_name": "mill-01",
        "repo": "github.com/acme/payments-api",
        "branch": "fix/rounding",
        "agent": "claude",
        "agent_version": "2.1.330",
        "permission_mode": "default",
        "owner": "ana",
        "waits_for": "a-05ba7e3e020415f8",
        "age_s": 320,
        "proof_age_s": 1,
        "reachable": True,
        "not_gated": ["reads files", "starts subagents"],
    }
    return known | changes


def drawn(table: Grid, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120, 164, 165, 200, 1000])
def test_an_id_is_whole_at_every_width(width: int) -> None:
    text = drawn(runs_table([row(1), row(2)], width), width)

    assert all(id in text for id in ("r-000000000001", "r-000000000002"))
    assert "waiting" in text
    if width >= 120:
        assert "github.com/acme/payments-api" in text


def test_off_a_terminal_a_run_is_one_line_with_everything() -> None:
    lines = runs_table([row(n) for n in range(10_000)], 1000).lines().splitlines()

    assert len(lines) == 10_001
    assert all(header in lines[0] for header in RUN_HEADERS)
    assert "reads files; starts subagents" in lines[1]


def test_what_an_older_server_does_not_say_is_left_empty() -> None:
    assert "r-1" in drawn(runs_table([{"id": "r-1"}], 200), 200)
    assert "r-1" in drawn(order_rows_table([{"run": "r-1", "receipt": None}]), 200)
    assert "r-1" in drawn(order_rows_table([{"run": "r-1", "receipt": {"took_ms": 3}}]), 200)


def test_a_machine_that_is_silent_is_away_and_never_green() -> None:
    assert "away, 3 min" in drawn(runs_table([row(reachable=False, proof_age_s=200)], 200), 200)
    assert machine_state({"standing": "active", "attached": False}) == "away"
    assert machine_state({"standing": "locked", "attached": True}) == "locked"


def test_what_was_found_of_an_agent_is_one_line() -> None:
    assert agent_line({"name": "claude", "version": "2.1.330", "signed_in": True}) == "claude 2.1.330, signed in"
    assert agent_line({"name": "claude", "problem": "it is too old"}) == "claude: it is too old"


def test_what_was_kept_of_the_work_is_one_line() -> None:
    assert safety_line(None) == ""
    assert safety_line({"error": "disk full"}) == "not saved: disk full"
    assert safety_line({"id": "s", "files": 1, "bytes": 10}) == "s: 1 file, 10 bytes"
    assert safety_line({"id": "s", "files": 2, "bytes": 10, "left_out": 1}) == "s: 2 files, 10 bytes, 1 not saved"
