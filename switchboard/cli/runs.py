"""Runs: start them, list them, read them, speak to them."""

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import click

from switchboard.cli import live, output
from switchboard.cli.client import Server, part
from switchboard.cli.errors import Away, Failed
from switchboard.cli.options import Session, machine_id, server_options
from switchboard.cli.tables import Grid, Row, runs_table, say
from switchboard.cli.text import age, plain
from switchboard.domain.run import RESUMABLE, RunState
from switchboard.services.words import LONGEST_PROMPT

DIFF_S = 90.0  # more than the server gives the machine
ANSWERS_WITHIN_S = 20.0  # how long `run start` waits for the machine's first word


@click.group("run")
def run() -> None:
    """Start a run, look at it, speak to it, end it."""


@click.command("runs")
@click.option("--repo", help="Only this repo, as the list shows it: github.com/acme/api.")
@click.option("--machine", help="Only this machine, by name or id.")
@click.option("--owner", help="Only this person's.")
@click.option("--state", type=click.Choice([state.value for state in RunState]), help="Only in this state.")
@click.option("--agent", help="Only this agent: claude.")
@click.option("--all", "everything", is_flag=True, help="Ended ones too.")
@click.option("--watch", is_flag=True, help="Redraw as things change; Ctrl-C ends it.")
@server_options
def runs(at: Session, everything: bool, watch: bool, machine: str | None, **wanted: str | None) -> None:
    """List the active runs of the fleet."""
    server = at.server
    query = {**wanted, "machine": machine_id(server, machine) if machine else None, "all": 1 if everything else None}
    if wanted.get("state") and RunState(str(wanted["state"])) in RESUMABLE | {RunState.REFUSED}:
        query["all"] = 1

    def read() -> list[Row]:
        return list(server.pages("/runs", "runs", **query))

    def draw(rows: Sequence[Row]) -> Grid:
        return runs_table(rows, at.out.width)

    if watch:  # machines too: a run is away when its machine is
        live.watch(server, at.out, ("run", "machine"), "runs", read, draw)
    rows = read()
    at.out.show({"runs": rows}, lambda: draw(rows) if rows else "no runs")


@run.command("start")
@click.option("--repo", required=True, metavar="PATH", help="The checkout, on the machine that runs it.")
@click.option("--agent", default="claude", show_default=True)
@click.option("--machine", help="Name or id; may be left out where there is one machine, or this one is meant.")
@click.option(
    "--mode", type=click.Choice(["diagnose", "patch", "plan"]), help="Refused where the agent cannot be held to it."
)
@click.option("--scope", multiple=True, metavar="GLOB", help="Files that it may touch; may be said several times.")
@click.option("--resume-after-crash", is_flag=True, help="Take the session up again when its daemon comes back.")
@click.option("--follow", is_flag=True, help="Show its output as it comes.")
@click.argument("prompt")
@server_options
def start(
    at: Session,
    repo: str,
    machine: str | None,
    prompt: str,
    follow: bool,
    **wanted: Any,
) -> None:
    """Start an agent on PROMPT ("-" reads it from stdin)."""
    server = at.server
    where = machine_id(server, machine) if machine else at.place.machine or None
    here = where is not None and where == at.place.machine
    if not os.path.isabs(repo):
        if not here:
            raise Failed(
                f"{plain(repo)} is not absolute: on another machine only the whole path says which folder is meant"
            )
        repo = os.path.abspath(repo)
    body = {
        "path": repo,
        "prompt": _prompt(at, prompt),
        "machine": where or "",
        "agent": wanted["agent"],
        "mode": wanted["mode"] or "",
        "scope": wanted["scope"],
        "resume_after_crash": wanted["resume_after_crash"],
        "request_id": str(uuid.uuid4()),
    }
    ordered = server.post("/runs", body, repeat=True)
    row = _settled(server, ordered["run"]["id"], ordered["instruction"]["id"])
    if row["state"] in (RunState.REFUSED, RunState.FAILED):
        raise Failed(str(row.get("reason") or f"the run is {row['state']}"))
    if follow:
        say(f"run {plain(row['id'])} on {plain(row.get('machine_name') or row['machine'])}")
        output.follow(server, at.out, row["id"], 1)
        return
    at.out.show(row, lambda: plain(row["id"]))
    if row["state"] == RunState.ORDERED:
        raise Away(
            f"run {row['id']} is ordered, but its machine has not said a word yet: look with `switchboard run show`"
        )


def _prompt(at: Session, prompt: str) -> str:
    text = at.stdin("the prompt", LONGEST_PROMPT + 4) if prompt == "-" else prompt
    if not text.strip():
        raise Failed("the prompt is empty: say what the agent is to do")
    if len(text.encode()) > LONGEST_PROMPT:
        raise Failed(
            f"the prompt is too long (at most {LONGEST_PROMPT} bytes are taken): put it into a file and name the file"
        )
    return text


def _settled(server: Server, run_id: str, instruction_id: str) -> dict[str, Any]:
    """Return the run as it stands once its machine has started or refused it."""
    until = time.monotonic() + ANSWERS_WITHIN_S
    while True:
        row: dict[str, Any] = server.get(f"/runs/{part(run_id)}")
        if row["state"] not in (RunState.ORDERED, RunState.STARTING) or time.monotonic() > until:
            return row
        if row["state"] == RunState.ORDERED:
            told = server.get(f"/instructions/{part(instruction_id)}")["instruction"]
            if told["state"] in ("failed", "lapsed"):
                raise Failed(told["outcome"] or f"the start has {told['state']}")
        time.sleep(0.2)


@run.command("show")
@click.argument("id")
@server_options
def show(at: Session, id: str) -> None:
    """Show everything about one run."""
    row = at.server.get(f"/runs/{part(id)}")
    at.out.show(row, lambda: about(row))


ABOUT = (
    ("state", "state"),
    ("reason", "reason"),
    ("repo", "repo"),
    ("path", "path"),
    ("branch", "branch"),
    ("started from", "base_commit"),
    ("agent", "agent"),
    ("version", "agent_version"),
    ("mode", "mode"),
    ("permission mode", "permission_mode"),
    ("owner", "owner"),
    ("waits for", "waits_for"),
    ("attempt", "attempt"),
    ("session", "session_id"),
    ("content", "content"),
    ("containment", "containment"),
    ("scope", "scope"),
    ("its agent", "abilities"),
)


def about(row: Mapping[str, Any]) -> str:
    """Return the lines that tell all about a run."""
    lines = [
        f"run              {plain(row.get('id'))}",
        f"machine          {plain(row.get('machine_name') or row.get('machine'))}"
        + ("" if row.get("reachable", True) else " (away)"),
    ]
    for label, key in ABOUT:
        value = row.get(key)
        if value:
            lines.append(f"{label:<17}{plain(', '.join(map(str, value)) if isinstance(value, list) else value)}")
    lines.append(
        f"age              {age(row.get('age_s'))}, last proof of life {age(row.get('proof_age_s')) or 'never'} ago"
    )
    lines += [f"not gated        {plain(words)}" for words in row.get("not_gated") or ()]
    for approval in row.get("approvals") or ():
        lines.append(
            f"approval         {plain(approval.get('id'))} {plain(approval.get('state'))}: {plain(approval.get('title'))}"
        )
    for order in row.get("instructions") or ():
        told = " ".join(filter(None, (str(order.get("state")), str(order.get("outcome") or ""))))
        lines.append(f"instruction      {plain(order.get('kind'))} by {plain(order.get('by'))}: {plain(told)}")
    if prompt := row.get("prompt"):
        lines.append(f"prompt           {plain(prompt)}")
    return "\n".join(lines)


@run.command("output")
@click.argument("id")
@click.option("-f", "--follow", is_flag=True, help="Go on as it comes, until the run is over.")
@click.option("--from", "first", type=click.IntRange(1), default=1, help="Begin at this event.")
@server_options
def output_command(at: Session, id: str, follow: bool, first: int) -> None:
    """Print what a run has said and done."""
    if follow:
        output.follow(at.server, at.out, id, first)
    else:
        output.print_all(at.server, at.out, id, first)


@run.command("diff")
@click.argument("id")
@server_options
def diff(at: Session, id: str) -> None:
    """Show what changed in the checkout since the run started."""
    found = at.server.get(f"/runs/{part(id)}/diff", within=DIFF_S)
    at.out.show(found, lambda: output.diff_text(found))


@run.command("send")
@click.argument("id")
@click.argument("text")
@server_options
def send(at: Session, id: str, text: str) -> None:
    """Say TEXT to a run ("-" reads it from stdin)."""
    _told(at, at.server.post(f"/runs/{part(id)}/messages", {"text": _prompt(at, text)}))


@run.command("interrupt")
@click.argument("id")
@click.option("--reason", default="")
@server_options
def interrupt(at: Session, id: str, reason: str) -> None:
    """End the present turn; the session stays and takes a message."""
    _told(at, at.server.post(f"/runs/{part(id)}/interrupt", {"reason": reason}))


@run.command("resume")
@click.argument("id")
@click.argument("text", default="")
@server_options
def resume(at: Session, id: str, text: str) -> None:
    """Take an ended session up again, with TEXT as its next message."""
    _told(at, at.server.post(f"/runs/{part(id)}/resume", {"text": _prompt(at, text) if text else ""}))


@run.command("end")
@click.argument("id")
@server_options
def end(at: Session, id: str) -> None:
    """Close an idle session in good order."""
    _told(at, at.server.post(f"/runs/{part(id)}/end"))


@run.command("stop")
@click.argument("id")
@click.option("--reason", required=True)
@server_options
def stop(at: Session, id: str, reason: str) -> None:
    """End all processes of one run; `stop status` shows the proof."""
    answer = at.server.post(f"/runs/{part(id)}/stop", {"reason": reason})
    at.out.show(answer, lambda: plain(answer["order"]["id"]))


def _told(at: Session, answer: Any) -> None:
    """Wait for the machine's word on the instruction in *answer*, and say it."""
    told = answer["instruction"]
    until = time.monotonic() + ANSWERS_WITHIN_S
    while told["state"] in ("ordered", "delivered") and time.monotonic() < until:
        time.sleep(0.2)
        told = at.server.get(f"/instructions/{part(told['id'])}")["instruction"]
    if told["state"] in ("failed", "lapsed"):
        raise Failed(told["outcome"] or f"the instruction has {told['state']}")
    at.out.show(told, lambda: plain(f"{told['state']} {told['outcome']}".strip()))
    if told["state"] != "applied":
        raise Away("the machine has not confirmed it yet; it is told again whenever it comes back")


@click.command("purge")
@click.argument("id")
@click.option("--reason", required=True)
@server_options
def purge(at: Session, id: str, reason: str) -> None:
    """Forget a run's output, questions and safety copies, here and on its machine."""
    answer = at.signed_in.delete(f"/runs/{part(id)}", {"reason": reason})
    at.out.show(answer, lambda: f"run {plain(id)} is purged")
