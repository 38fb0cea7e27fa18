"""Approvals: what waits, and the two answers. Nobody is asked for a password before they have seen what will run."""

import difflib
import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import click

from switchboard.cli import live
from switchboard.cli.client import part
from switchboard.cli.errors import Away, Failed, NotSignedIn
from switchboard.cli.options import Session, server_options
from switchboard.cli.tables import Row, approvals_table
from switchboard.cli.text import block, deeper, payload, plain

CONFIRMS_WITHIN_S = 10.0
MOST_NESTED = 100  # levels of an input


@click.command("approvals")
@click.option("--run", help="Only of this run.")
@click.option("--all", "everything", is_flag=True, help="Decided ones too.")
@click.option("--watch", is_flag=True, help="Redraw as things change; Ctrl-C ends it.")
@server_options
def approvals(at: Session, run: str | None, everything: bool, watch: bool) -> None:
    """List the questions that wait for a person."""
    server = at.server

    def read() -> list[Row]:
        rows: list[Row] = server.get("/approvals", run=run, state=None if everything else "open")["approvals"]
        return rows

    if watch:
        live.watch(server, at.out, ("approval", "machine"), "approvals", read, approvals_table)
    rows = read()
    at.out.show({"approvals": rows}, lambda: approvals_table(rows) if rows else "nothing waits for a decision")


@click.command("approval")
@click.argument("id")
@server_options
def approval(at: Session, id: str) -> None:
    """Show one question: exactly what will run, why, and where."""
    row = at.server.get(f"/approvals/{part(id)}")
    at.out.show(row, lambda: card(row))


@click.command("approve")
@click.argument("id")
@click.option(
    "--input",
    "edited",
    metavar="FILE",
    help='Let it run with this JSON input instead; a question is answered with {"answers": {QUESTION: CHOICE}} '
    'and a form with its fields ("-" is stdin).',
)
@click.option("--note", default="", help="For the record.")
@server_options
def approve(at: Session, id: str, edited: str | None, note: str) -> None:
    """Let the agent do exactly what it asks for, or answer what it asks."""
    _vote(at, id, "approve", note, _input(at, edited) if edited else None)


@click.command("deny")
@click.argument("id")
@click.option("--reason", required=True, help="The agent is told this; a form's asker hears only that it was declined.")
@server_options
def deny(at: Session, id: str, reason: str) -> None:
    """Refuse; the agent gets the reason and goes on without."""
    _vote(at, id, "deny", reason, None)


def _read(at: Session, id: str) -> Row:
    """Return the question as the token sees it, or as the person does where the token may not read it or is over."""
    if at.has_token:
        try:
            row: Row = at.token_server().get(f"/approvals/{part(id)}")
            if row["readable"]:
                return row
        except NotSignedIn:
            if not at.is_named:
                raise
    seen: Row = at.signed_in.get(f"/approvals/{part(id)}")
    return seen


def _vote(at: Session, id: str, verdict: str, note: str, edited: Any) -> None:
    row = _read(at, id)
    click.echo(card(row), err=at.out.json)
    if verdict == "approve" and row.get("kind") == "choice" and not (edited or {}).get("answers"):
        raise Failed(
            "this asks for a choice, and a yes alone is none: approve it with --input FILE, "
            'in which {"answers": {"the question": "what you choose"}} stands'
        )
    if edited is not None:
        click.echo(_change(row, edited), err=at.out.json)
    body = {"verdict": verdict, "digest": row["digest"], "note": note, "vote_id": str(uuid.uuid4())}
    if edited is not None:
        body["input"] = edited
    if at.has_signed_in and sys.stdin.isatty():  # the password came before the card, so the card still needs its yes
        click.confirm(f"{verdict} this?", abort=True, err=True)
    decided = _in_force(at, at.signed_in.post(f"/approvals/{part(id)}/votes", body, repeat=True))
    at.out.show(decided, lambda: f"{plain(id)} is {plain(decided['state'])}; delivery: {plain(decided['delivery'])}")
    if decided["delivery"] == "sent":
        raise Away("its machine has not confirmed that yet; it is told again whenever it comes back")
    if decided["delivery"] in ("refused", "undeliverable"):
        what = decided.get("in_force") or {}
        by = f" by {what['by']}" if what.get("by") else ""
        raise Failed(
            f"what happened is another thing: {what.get('verdict', decided['delivery'])}{by}. {what.get('reason', '')}"
        )


def _in_force(at: Session, decided: Any) -> Any:
    """Wait for the machine's receipt: only that puts a decision in force."""
    until = time.monotonic() + CONFIRMS_WITHIN_S
    while decided["delivery"] in ("sent", "accepted") and time.monotonic() < until:
        time.sleep(0.2)
        decided = at.signed_in.get(f"/approvals/{part(str(decided['id']))}")
    return decided


def _input(at: Session, name: str) -> Any:
    try:
        text = at.stdin("the input") if name == "-" else Path(name).read_text()
        value = json.loads(text, parse_constant=_no_number)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # as it is sent
    except OSError as error:
        raise Failed(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeEncodeError:
        raise Failed(f"{name} holds half of a character, as \\ud800 is: no agent could be told it") from None
    except ValueError as error:
        raise Failed(f"{name} is not JSON: {error}") from None
    except RecursionError:
        raise Failed(f"{name} is nested too deeply") from None
    if not isinstance(value, dict):
        raise Failed(f"{name} is to hold one JSON object, like the input that the agent asked with")
    if deeper(value, MOST_NESTED):
        raise Failed(f"{name} is nested too deeply: at most {MOST_NESTED} levels are taken")
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _original(row: Row) -> Any:
    """Return the agent's input as a value; what is no JSON, or nested without end, is shown as the text that it is."""
    text = row["input_json"]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, list | dict) and deeper(value, MOST_NESTED) else value


def card(row: Row) -> str:
    """Return the whole question: nothing of what will run is left out or cut."""
    lines = [
        f"approval  {plain(row['id'])}  {plain(row['state'])}",
        f"run       {plain(row.get('run'))} of {plain(row.get('owner'))} in {plain(row.get('repo'))}",
        f"asks      {plain(row.get('tool'))} ({plain(row.get('kind'))})  {plain(row.get('title'))}",
        f"folder    {plain(row.get('cwd'))}",
    ]
    if row.get("why"):
        lines += ["why", block(row["why"], "    ")]
    if row.get("readable", True):
        lines += ["exactly this will run:", payload(_original(row), "    ")]
    else:
        lines.append("what it asks is not shown to you: only the run's owner and those who may decide read it")
    if row.get("diff"):
        lines += ["it would change:", block(row["diff"], "    ")]
    if row.get("masked"):
        lines.append("part of the input was masked and stays on its machine; the digest covers all of it")
    for vote in row.get("votes") or ():
        counted = "" if vote.get("counted", True) else " (too late: changes nothing)"
        lines.append(
            f"vote      {plain(vote.get('by'))}: {plain(vote.get('verdict'))} {plain(vote.get('note'))}{counted}"
        )
    if row.get("state") != "open":
        lines.append(f"delivery  {plain(row.get('delivery'))}  {plain(row.get('reason'))}")
    lines.append(f"digest    {plain(row['digest'])}")
    return "\n".join(lines)


def _change(row: Row, edited: Any) -> str:
    def lines(value: Any) -> list[str]:
        return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True).split("\n")

    changed = list(difflib.unified_diff(lines(_original(row)), lines(edited), "asked", "yours", lineterm="", n=3))
    return "your input:\n" + (block("\n".join(changed), "    ") if changed else "    the same as was asked")
