"""`switchboard-daemon`: join a switchboard, run, and speak to the daemon that runs."""

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import structlog

from daemon import app, door, log, settings
from daemon.clock import SystemClock
from daemon.disk import DiskError
from daemon.identity import Identity, NotEnrolled, make_home, read_address
from daemon.link import enrol
from daemon.settings import BadSettings, Settings

JOIN = "SWITCHBOARD_JOIN"
TROUBLE = (NotEnrolled, BadSettings, DiskError, door.NoDaemon)
WAIT_S = 600.0

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SWITCHBOARD_DAEMON_DATA",
    help="Where this machine's daemon keeps everything [the user's data home].",
)


class Trouble(click.ClickException):
    """One sentence on standard error, exit code 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"switchboard-daemon: {self.format_message()}", err=True)


@click.group()
@click.version_option(settings.VERSION, prog_name="switchboard-daemon")
def main() -> None:
    """The daemon of one machine: it starts, watches and stops this machine's coding agents for a switchboard."""


@main.command()
@click.argument("address", metavar="HOST:PORT")
@click.argument("token")
@data_option
@click.option("--name", help="What people call this machine [its host name].")
@click.option("--fleet", default="", help="Where daemons connect [the port below HOST:PORT].")
def join(address: str, token: str, data: Path | None, name: str | None, fleet: str) -> None:
    """Make this machine part of a fleet, with the line that `switchboard machines invite` prints."""
    with _clear():
        home = _home(data)
        with _alone(home):
            identity = Identity(home)
            if identity.enrolled:
                raise NotEnrolled(
                    f"this machine is {identity.machine().id} already ({home}): use another --data, or remove that folder"
                )
            machine = asyncio.run(_join(identity, address, token, name or app.machine_name(), fleet))
    click.echo(
        f"joined as {machine}; start the daemon with: switchboard-daemon run" + (f" --data {data}" if data else "")
    )


@main.command()
@data_option
@click.option("--fleet", help="Where daemons connect, when that has changed.")
@click.option("--enroll", help="Where machines join, when that has changed.")
def run(data: Path | None, fleet: str | None, enroll: str | None) -> None:
    """Run this machine's daemon in the foreground."""
    invitation = os.environ.pop(JOIN, "")  # agents inherit the environment
    log.set_up()
    with _clear():
        home = _home(data)
        with _alone(home):
            chosen = settings.read(home)
            identity = Identity(home)
            if not identity.enrolled and invitation:
                address, token, *more = invitation.split()[:3] if len(invitation.split()) > 1 else (invitation, "")
                asyncio.run(_join(identity, address, token, app.machine_name(), fleet or (more[0] if more else "")))
            _move(identity, fleet, enroll)
            again = asyncio.run(_run(chosen))  # not uvloop, whose process transports are not asyncio's
    if again:
        os.execv(sys.executable, [sys.executable, "-P", "-m", "daemon", "run", "--data", str(home)])  # noqa: S606


@main.command()
@data_option
@click.option("--wait", default=WAIT_S, show_default=True, help="Seconds to wait for idle moments before interrupting.")
def restart(data: Path | None, wait: float) -> None:
    """Bring every run to rest at its idle moment, start the daemon again, and take the runs up again."""
    with _clear():
        answer = door.call(_home(data), "restart", wait + 60, wait=wait)
        if "error" in answer:
            raise Trouble(str(answer["error"]))
    click.echo("every run is at rest; the daemon starts again and takes them up")


@main.command()
@data_option
def stop(data: Path | None) -> None:
    """End every run (they can be resumed), then the daemon."""
    with _clear():
        door.call(_home(data), "stop", 60)
    click.echo("the daemon is ending")


@main.command()
@data_option
def status(data: Path | None) -> None:
    """Say how the daemon of this machine is."""
    with _clear():
        found = door.call(_home(data), "status", 10)
    attached = "attached" if found["attached"] else f"not attached: {found['trouble']}"
    click.echo(f"{found['name']} ({found['machine']}), pid {found['pid']}, {attached}")
    if found["disk"]:
        click.echo(f"the disk takes nothing: {found['disk']}")
    for each in found["runs"]:
        click.echo(f"  {each['id']}  {each['state']}  {each['repo']}")


async def _join(identity: Identity, address: str, token: str, name: str, fleet: str) -> str:
    machine = await enrol.join(identity, address, token, name, SystemClock(), fleet)
    return f"{machine.name} ({machine.id})"


async def _run(chosen: Settings) -> bool:
    """Live until a signal or a command; return whether to start again."""
    async with app.put_together(chosen) as daemon:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, daemon.end)

        async def answer_status(_: dict[str, Any]) -> dict[str, Any]:
            return daemon.status()

        async def answer_stop(_: dict[str, Any]) -> dict[str, Any]:
            daemon.end()
            return {"ok": True}

        async def answer_restart(asked: dict[str, Any]) -> dict[str, Any]:
            comes_back = await daemon.drain(float(asked.get("wait", WAIT_S)))
            return {"ok": True} if comes_back else {"error": "the daemon was stopped: it does not start again"}

        commands = {"status": answer_status, "stop": answer_stop, "restart": answer_restart}
        async with door.Door(chosen.home, commands):
            await daemon.live()
        return daemon.restart


def _move(identity: Identity, fleet: str | None, enroll: str | None) -> None:
    """Remember the switchboard's addresses when they have changed."""
    machine = identity.machine()
    for address in (fleet, enroll):
        if address:
            read_address(address)
    if fleet or enroll:
        identity.move(fleet or machine.fleet, enroll or machine.enroll)


def _home(data: Path | None) -> Path:
    return (data or settings.default_home()).expanduser().absolute()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One daemon per folder."""
    make_home(home)
    with open(os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise NotEnrolled(f"another daemon runs in {home}: end it first, or use another --data") from error
        yield


@contextmanager
def _clear() -> Iterator[None]:
    """What people did wrong is one sentence; a mistake of ours is one too, and the log has the rest."""
    try:
        yield
    except TROUBLE as error:
        raise Trouble(str(error)) from None
    except OSError as error:
        raise Trouble(f"{error.filename or 'the system'}: {error.strerror or error}") from None
    except BaseExceptionGroup as group:
        leaves = group
        while isinstance(leaves, BaseExceptionGroup):
            leaves = leaves.exceptions[0]
        if isinstance(leaves, TROUBLE):
            raise Trouble(str(leaves)) from None
        structlog.get_logger().exception("the daemon failed")
        raise Trouble(f"the daemon failed and ended: {leaves or type(leaves).__name__}") from None
