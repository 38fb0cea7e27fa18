"""Stops: standing orders, the proof per run, and lifting them again."""

import time
import uuid
from typing import Any

import click

from switchboard.cli.client import Server, part
from switchboard.cli.errors import AWAY, REFUSED
from switchboard.cli.options import Session, machine_id, server_options
from switchboard.cli.tables import Row, order_rows_table, runs_table, say, table
from switchboard.cli.text import moment, plain

ENDING = ("ending", "unconfirmed", "unproven")


@click.group("stop")
def stop() -> None:
    """Stop runs on the whole fleet, with proof; the order stands until it is lifted."""


@stop.command("order")
@click.option("--all", "everything", is_flag=True, help="Every run.")
@click.option("--repo", multiple=True, help="Of this repo; each option may be said several times.")
@click.option("--machine", multiple=True, help="On this machine, by name or id.")
@click.option("--owner", multiple=True, help="Of this person.")
@click.option("--run", "runs", multiple=True, help="This run.")
@click.option("--agent", multiple=True, help="Of this agent: claude.")
@click.option("--except-repo", multiple=True, help="Everything but this repo.")
@click.option("--reason", help="Everybody who is held back reads this.")
@click.option("--dry-run", is_flag=True, help="Only show what would be stopped.")
@click.option("--no-hold", is_flag=True, help="Stop the runs of this moment; ones that start later go ahead.")
@server_options
def order(
    at: Session,
    everything: bool,
    machine: tuple[str, ...],
    reason: str | None,
    dry_run: bool,
    no_hold: bool,
    **named: Any,
) -> None:
    """Order a stop of all runs that match."""
    server = at.server
    selector = {
        "all": everything,
        "repos": named["repo"],
        "machines": [machine_id(server, name) for name in machine],
        "owners": named["owner"],
        "runs": named["runs"],
        "agents": named["agent"],
        "except_repos": named["except_repo"],
        "except_runs": (),
    }
    if not any(selector.values()):
        raise click.UsageError("say what to stop: --all, --repo, --machine, --owner, --run, --agent or --except-repo")
    if dry_run:
        _preview(at, server.post("/orders/preview", {"selector": selector}))
        return
    if not reason:
        raise click.UsageError("say why with --reason: everybody who is held back reads it")
    body = {"selector": selector, "reason": reason, "hold": not no_hold, "request_id": str(uuid.uuid4())}
    answer = server.post("/orders", body, repeat=True)
    made = answer["order"]
    if answer.get("narrowed"):
        say("this token reaches one machine only, so the order does too; for the whole fleet use --as NAME")
    expected = int(made.get("expected") or 0)
    if expected == 0:
        say("nothing on record matches now" + ("" if no_hold else "; the order stands for what starts later"))
    at.out.show(answer, lambda: plain(made["id"]))
    if expected and not at.out.json:
        say(
            f"{expected} {'run' if expected == 1 else 'runs'} to stop: `switchboard stop status --wait {plain(made['id'])}`"
        )


def _preview(at: Session, found: Any) -> None:
    at.out.show(
        found,
        lambda: runs_table(found["runs"], at.out.width) if found["runs"] else "nothing on record matches now",
    )
    if (away := found.get("machines_away")) and not at.out.json:
        say(f"away, and would obey at their return: {plain(', '.join(map(_name, away)))}")


def _name(machine: Any) -> str:
    return str(machine.get("name") or machine.get("id")) if isinstance(machine, dict) else str(machine)


@stop.command("status")
@click.argument("id", metavar="ORDER")
@click.option("--wait", is_flag=True, help="Wait until every machine that can be reached has proven its part.")
@click.option("--timeout", type=click.FloatRange(0), default=120, show_default=True, help="Seconds to wait.")
@server_options
def status(at: Session, id: str, wait: bool, timeout: float) -> None:
    """Show the proof per run. Ends with 0: all ended; 1: something is left alive; 3: not all is proven."""
    server = at.server
    found = _status(server, id)
    until = time.monotonic() + timeout
    while wait and _pending(found) and time.monotonic() < until:
        time.sleep(0.3)
        found = _status(server, id)
    at.out.show(found, lambda: order_rows_table(found["rows"]))
    if not at.out.json:
        click.echo(_counts(found))
    code = _code(found)
    if code:
        raise click.exceptions.Exit(code)


def _status(server: Server, id: str) -> Any:
    return server.get(f"/orders/{part(id)}")


def _pending(found: Any) -> bool:
    machines = found.get("machines") or {}
    unseen = machines.get("total", 0) - machines.get("seen", 0) - len(machines.get("away") or ())
    return unseen > 0 or any(row["standing"] in ENDING for row in found["rows"])


def _counts(found: Any) -> str:
    counts = found.get("counts") or {}
    done = counts.get("ended", 0) + counts.get("refused", 0)
    rows = len(found["rows"])
    words = ", ".join(f"{count} {plain(word)}" for word, count in counts.items() if count)
    machines = found.get("machines") or {}
    line = f"{done} of {rows} runs proven" + (f" ({words})" if words else "")
    line += f"; {machines.get('seen', 0)} of {machines.get('total', 0)} machines hold the order"
    if away := machines.get("away"):
        line += f"; away: {plain(', '.join(map(_name, away)))}"
    return line


def _code(found: Any) -> int:
    if any(row["standing"] == "failed" for row in found["rows"]):
        return REFUSED
    if _pending(found) or any(row["standing"] == "unreachable" for row in found["rows"]):
        return AWAY
    return 0


@stop.command("list")
@click.option("--all", "everything", is_flag=True, help="Lifted ones too.")
@server_options
def list_orders(at: Session, everything: bool) -> None:
    """List the orders that stand."""
    found = at.server.get("/orders")
    orders = [order for order in found["orders"] if everything or not order["lifted"]]
    headers = ("ORDER", "STOPS", "BY", "REASON", "SINCE", "HOLD", "REVIEW", "LIFTED BY")
    at.out.show(
        {"orders": orders},
        lambda: (
            table(
                headers,
                (
                    (
                        order["id"],
                        selector_words(order["selector"]),
                        order["by"],
                        order["reason"],
                        moment(order["issued_at"]),
                        "yes" if order["hold"] else "no",
                        moment(order.get("review_at")) if order["hold"] else "",
                        order.get("lifted_by"),
                    )
                    for order in orders
                ),
            )
            if orders
            else "no order stands"
        ),
    )


def selector_words(selector: Row) -> str:
    """Return a selector as a person would say it."""
    words: list[str] = []
    for key, word in (
        ("repos", "repo"),
        ("machines", "machine"),
        ("owners", "owner"),
        ("runs", "run"),
        ("agents", "agent"),
        ("except_repos", "but not repo"),
        ("except_runs", "but not run"),
    ):
        words += [f"{word} {value}" for value in selector.get(key) or ()]
    return ", ".join(words) or ("everything" if selector.get("all") else "nothing")


@stop.command("lift")
@click.argument("id", metavar="ORDER")
@click.option("--reason", required=True)
@server_options
def lift(at: Session, id: str, reason: str) -> None:
    """Let runs that match start again."""
    answer = at.signed_in.post(f"/orders/{part(id)}/lift", {"reason": reason})
    at.out.show(answer, lambda: f"order {plain(id)} is lifted")


@stop.command("extend")
@click.argument("id", metavar="ORDER")
@click.option("--hours", type=click.IntRange(1, 24 * 30), required=True)
@server_options
def extend(at: Session, id: str, hours: int) -> None:
    """Move the time at which the order's author is asked whether it should still stand."""
    answer = at.signed_in.post(f"/orders/{part(id)}/extend", {"hours": hours})
    at.out.show(answer, lambda: f"order {plain(id)} is reviewed at {moment(answer['order']['review_at'])}")
