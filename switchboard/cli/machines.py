"""Machines: which are in the fleet, and how one comes in or is put out; and the copies of stopped work that they keep."""

import click

from switchboard.cli.client import LOOPBACK, part
from switchboard.cli.options import Session, machine_id, server_options
from switchboard.cli.tables import machines_table, say, table
from switchboard.cli.text import as_json, moment, plain, size

RESTORE_S = 180.0  # more than the server gives the machine


class ListedByDefault(click.Group):
    """A group that lists when no subcommand is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("machines", cls=ListedByDefault)
def machines() -> None:
    """List the machines of the fleet; invite one, or put one out."""


@machines.command("list")
@server_options
def list_machines(at: Session) -> None:
    """List the machines of the fleet."""
    found = at.server.get("/machines")
    at.out.show(found, lambda: machines_table(found["machines"]) if found["machines"] else "no machine has joined yet")


@machines.command("invite")
@click.option("--name", default="", help="What people will call it.")
@server_options
def invite(at: Session, name: str) -> None:
    """Print one line to paste on another machine; good once, for 15 minutes."""
    answer = at.signed_in.post("/machines/invites", {"name": name})
    at.out.show(answer, lambda: plain(answer["command"]))
    if not at.out.json:
        say(f"good once, until {moment(answer['until'])}; whoever pastes it first joins")
        if any(f" {host}:" in answer["command"] for host in LOOPBACK):
            say(
                "this server hears its own machine only: for others, start it with --grpc and --enroll on its network address"
            )


@machines.command("revoke")
@click.argument("machine")
@click.option("--reason", required=True)
@server_options
def revoke(at: Session, machine: str, reason: str) -> None:
    """Put a machine out of the fleet; its streams close at once."""
    id = machine_id(at.signed_in, machine)
    answer = at.signed_in.post(f"/machines/{part(id)}/revoke", {"reason": reason})
    at.out.show(answer, lambda: f"machine {plain(machine)} is revoked")


@click.group("safety")
def safety() -> None:
    """The copies of stopped runs' work, kept on their machines."""


@safety.command("list")
@click.option("--machine", help="Name or id; this machine unless said.")
@server_options
def safety_list(at: Session, machine: str | None) -> None:
    """List the copies that a machine keeps."""
    found = at.server.get(f"/machines/{_where(at, machine)}/safety")
    copies = found["copies"]
    headers = ("COPY", "RUN", "CHECKOUT", "HEAD", "SIZE", "SAVED", "EXPIRES")
    at.out.show(
        found,
        lambda: (
            table(
                headers,
                (
                    (
                        copy.get("id"),
                        copy.get("run"),
                        copy.get("root"),
                        str(copy.get("head") or "")[:12],
                        size(copy.get("bytes")),
                        moment(copy.get("saved_wall_ms")),
                        moment(copy.get("expires_wall_ms")),
                    )
                    for copy in copies
                ),
            )
            if copies
            else "no copies are kept"
        ),
    )


@safety.command("show")
@click.argument("id", metavar="COPY")
@click.option("--machine", help="Name or id; this machine unless said.")
@server_options
def safety_show(at: Session, id: str, machine: str | None) -> None:
    """Show what one copy holds, and what was not saved."""
    found = at.server.get(f"/machines/{_where(at, machine)}/safety/{part(id)}")
    at.out.show(found, lambda: as_json(found))


@safety.command("restore")
@click.argument("id", metavar="COPY")
@click.option("--into", required=True, metavar="DIR", help="A folder on that machine, new or empty.")
@click.option("--machine", help="Name or id; this machine unless said.")
@server_options
def safety_restore(at: Session, id: str, into: str, machine: str | None) -> None:
    """Write a copy out as a checkout."""
    path = f"/machines/{_where(at, machine)}/safety/{part(id)}/restore"
    found = at.server.post(path, {"into": into}, within=RESTORE_S)
    at.out.show(found, lambda: as_json(found))


def _where(at: Session, machine: str | None) -> str:
    if machine:
        return part(machine_id(at.server, machine))
    if at.place.machine:
        return part(at.place.machine)
    raise click.UsageError("say which machine with --machine")
