"""People and what they carry: roles, sign-in links, passwords, tokens; and the record of who did what."""

import sys

import click

from switchboard.cli import stdin
from switchboard.cli.client import Place, Server, ask_password, part
from switchboard.cli.errors import Failed
from switchboard.cli.options import Session, machine_id, server_options
from switchboard.cli.tables import say, table
from switchboard.cli.text import moment, plain
from switchboard.domain.people import NEVER_BY_TOKEN, Permission, Role

ROLES = click.Choice([role.value for role in Role])


@click.group("people")
def people() -> None:
    """Who may do what."""


@people.command("list")
@server_options
def list_people(at: Session) -> None:
    """List the people of the team."""
    found = at.server.get("/people")
    headers = ("PERSON", "NAME", "ROLE", "STATE")
    at.out.show(
        found,
        lambda: table(
            headers,
            (
                (p["id"], p.get("display"), p["role"], "disabled" if p.get("disabled") else "active")
                for p in found["people"]
            ),
        ),
    )


@people.command("invite")
@click.argument("id")
@click.option("--name", default="", help="As it is shown; ID unless said.")
@click.option("--role", type=ROLES, default=Role.DEVELOPER.value, show_default=True)
@server_options
def invite(at: Session, id: str, name: str, role: str) -> None:
    """Add a person and print the one-time link with which they choose a password."""
    answer = at.signed_in.post("/people", {"id": id, "display": name or id, "role": role})
    at.out.show(answer, lambda: plain(answer["link"]))


@people.command("role")
@click.argument("id")
@click.argument("role", type=ROLES)
@server_options
def role(at: Session, id: str, role: str) -> None:
    """Give a person another role."""
    answer = at.signed_in.patch(f"/people/{part(id)}", {"role": role})
    at.out.show(answer, lambda: f"{plain(id)} is {role}")


@people.command("disable")
@click.argument("id")
@click.option("--undo", is_flag=True, help="Let them in again.")
@server_options
def disable(at: Session, id: str, undo: bool) -> None:
    """End a person's sessions and tokens and let them in no more."""
    answer = at.signed_in.patch(f"/people/{part(id)}", {"disabled": not undo})
    at.out.show(answer, lambda: f"{plain(id)} is {'active' if undo else 'disabled'}")


@people.command("link")
@click.argument("id")
@server_options
def link(at: Session, id: str) -> None:
    """Print a one-time sign-in link for a person."""
    answer = at.signed_in.post(f"/people/{part(id)}/link")
    at.out.show(answer, lambda: plain(answer["link"]))


@click.command("passwd")
@click.option(
    "--link", "by_link", is_flag=True, help="Choose the first password, by a one-time link, which is asked for."
)
@server_options
def passwd(at: Session, by_link: bool) -> None:
    """Choose a password."""
    from_stdin = sys.stdin is None or not sys.stdin.isatty()
    if by_link:
        url = (
            stdin.line("the link").strip()
            if from_stdin
            else str(click.prompt("One-time link", hide_input=True, err=True))
        )
        secret = url.rpartition("#")[2]
        password = ask_password("the link's person", from_stdin, again=True)
        answer = Server(Place(at.place.url)).post("/session/link", {"secret": secret, "password": password})
        at.out.show({"person": answer.get("person")}, lambda: f"{plain(answer.get('person'))} has a password now")
        return
    server = at.signed_in  # asks for the present one
    say("and the password that it is to be:")
    server.put("/session/password", {"password": ask_password(at.person, from_stdin, again=True)})
    at.out.show({"person": at.person}, lambda: f"{plain(at.person)} has another password now")


@click.group("tokens")
def tokens() -> None:
    """API tokens of your own. None can ever vote, lift, change people and machines, or touch a second machine."""


@tokens.command("list")
@server_options
def list_tokens(at: Session) -> None:
    """List your tokens; the tokens themselves are never shown again."""
    found = at.signed_in.get("/tokens")
    headers = ("TOKEN", "NAME", "PERSON", "MAY", "MACHINE", "UNTIL")
    at.out.show(
        found,
        lambda: (
            table(
                headers,
                (
                    (
                        t["id"],
                        t.get("name"),
                        t.get("person"),
                        ", ".join(sorted(t.get("permits") or ())),
                        t.get("machine"),
                        moment(t.get("until")),
                    )
                    for t in found["tokens"]
                ),
            )
            if found["tokens"]
            else "no tokens"
        ),
    )


@tokens.command("mint")
@click.argument("name")
@click.option(
    "--may",
    multiple=True,
    type=click.Choice(sorted(p.value for p in set(Permission) - NEVER_BY_TOKEN)),
    default=["look"],
)
@click.option("--days", type=click.IntRange(1, 365), default=30, show_default=True)
@click.option("--machine", default="", help="The one on which it may start and stop, by name or id.")
@server_options
def mint(at: Session, name: str, may: tuple[str, ...], days: int, machine: str) -> None:
    """Make a token and print it, this once."""
    bound = machine_id(at.signed_in, machine) if machine else ""
    answer = at.signed_in.post("/tokens", {"name": name, "permits": list(may), "days": days, "machine": bound})
    at.out.show(answer, lambda: plain(answer["token"]))


@tokens.command("revoke")
@click.argument("id", metavar="TOKEN")
@server_options
def revoke(at: Session, id: str) -> None:
    """End a token."""
    at.signed_in.delete(f"/tokens/{part(id)}")
    at.out.show({"revoked": id}, lambda: f"token {plain(id)} is revoked")


@click.command("audit")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--before", type=click.IntRange(1), help="Only entries below this number.")
@click.option(
    "--verify", is_flag=True, help="Instead, check the chain of all entries, and name the first that was tampered with."
)
@server_options
def audit(at: Session, limit: int, before: int | None, verify: bool) -> None:
    """Print who did what, the newest last."""
    if verify:
        verdict = at.server.get("/audit/verdict")
        broken = verdict["broken_at"]
        at.out.show(verdict, lambda: "the audit is whole" if broken is None else None)
        if broken is not None:
            raise Failed(f"the audit is broken at entry {broken}: it, or what stood there, was changed or taken out")
        return
    found = at.signed_in.get("/audit", limit=limit, before=before)
    headers = ("NO", "AT", "BY", "VIA", "DID", "TO", "WHY")
    at.out.show(
        found,
        lambda: table(
            headers,
            (
                (e["seq"], moment(e["at"]), e["by"], e["via"], e["action"], e["subject"], e.get("reason"))
                for e in reversed(found["entries"])
            ),
        ),
    )
