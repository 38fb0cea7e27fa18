"""`switchboard-daemon`: join a switchboard, run, and speak to the daemon that runs."""

import asyncio
import fcntl
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import structlog

from daemon import app, closed, door, log, settings
from daemon.clock import SystemClock
from daemon.disk import DiskError
from daemon.identity import BadAddress, CannotJoin, Identity, NotEnrolled, make_home, read_address
from daemon.link import enrol
from daemon.settings import BadSettings, Settings

JOIN = "SWITCHBOARD_JOIN"
WAIT_S = 600.0

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SWITCHBOARD_DAEMON_DATA",
    help="Where this machine's daemon keeps everything [the user's data home].",
)


class InUse(Exception):
    """One sentence: another daemon has the folder."""


TROUBLE = (NotEnrolled, CannotJoin, BadAddress, BadSettings, DiskError, InUse, door.NoDaemon)


class Trouble(click.ClickException):
    """One sentence on standard error, exit code 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"switchboard-daemon: {self.format_message()}", err=True)


@click.group()
@click.version_option(settings.VERSION, prog_name="switchboard-daemon")
def main() -> None:
    """The daemon of one machine: it starts, watches and stops this machine's coding agents for a switchboard."""
    log.set_up()


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
                raise CannotJoin(
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
    closed.close()
    invitation = os.environ.pop(JOIN, "")  # agents inherit the environment
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
        _told(data, "restart", wait + 60, wait=wait)
    click.echo("every run is at rest; the daemon starts again and takes them up")


@main.command()
@data_option
def stop(data: Path | None) -> None:
    """End every run (they can be resumed), then the daemon."""
    with _clear():
        _told(data, "stop", 60)
    click.echo("the daemon is ending")


@main.command()
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def status(data: Path | None, as_json: bool) -> None:
    """Say how the daemon of this machine is."""
    with _clear():
        found = _told(data, "status", 10)
        click.echo(json.dumps(found, indent=2) if as_json else _words(found))


def _words(found: dict[str, Any]) -> str:
    attached = "attached" if found["attached"] else f"not attached: {found['trouble']}"
    lines = [f"{found['name']} ({found['machine']}), pid {found['pid']}, {attached}"]
    if found["disk"]:
        lines.append(f"the disk takes nothing: {found['disk']}")
    return "\n".join([*lines, *(f"  {each['id']}  {each['state']}  {each['repo']}" for each in found["runs"])])


def _told(data: Path | None, command: str, timeout_s: float, **said: Any) -> dict[str, Any]:
    """Return what the daemon answers. Raises Trouble with its own sentence when it does not do it, NoDaemon."""
    answer = door.call(_home(data), command, timeout_s, **said)
    if "error" in answer:
        raise Trouble(str(answer["error"]))
    return answer


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
            raise InUse(f"another daemon runs in {home}: end it first, or use another --data") from error
        yield


@contextmanager
def _clear() -> Iterator[None]:
    """What people did wrong is one sentence; a fault of ours is one too, and its story is kept."""
    try:
        yield
    except click.ClickException:
        raise
    except OSError as error:
        raise Trouble(f"{error.filename or 'the system'}: {error.strerror or error}") from None
    except (Exception, BaseExceptionGroup) as error:
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, TROUBLE):
            raise Trouble(str(first)) from None
        raise Trouble(f"a fault of ours ({type(first).__name__}); {_record()}") from None


def _record() -> str:
    """Write the story of the present error into the log, or to a file where that is a terminal; say where."""
    if not sys.stderr.isatty():
        structlog.get_logger().exception("a fault of ours")
        return "its story is in the log"
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "switchboard"
    try:
        make_home(folder)
        with open(os.open(folder / "faults.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
            file.write(traceback.format_exc() + "\n")
    except OSError as error:
        return f"its story could not be written: {error}"
    return f"its story is in {folder / 'faults.log'}"
