"""`switchboard up`: everything on this machine, in the foreground; what dies is started again, and Ctrl-C ends all of it."""

import asyncio
import contextlib
import getpass
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from switchboard import closed
from switchboard.cli import parts, ports
from switchboard.cli.client import default_data
from switchboard.cli.edge import edge_options, passed_on
from switchboard.cli.errors import Failed
from switchboard.cli.house import House
from switchboard.cli.options import check_words
from switchboard.cli.serve import check_certificate
from switchboard.cli.text import plain
from switchboard.settings import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was said on the command line."""

    data: Path
    said: Mapping[str, Address | None]
    redis_url: str | None
    daemon: bool
    server_options: tuple[str, ...]
    public_url: str | None
    webhook: str | None
    tls: bool


@click.command("up")
@click.option("--data", type=click.Path(path_type=Path), envvar="SWITCHBOARD_DATA", help="Where everything is kept.")
@click.option("--http", type=ports.AddressType(), help="Where people and the command line connect [127.0.0.1:7800].")
@click.option("--grpc", type=ports.AddressType(), help="Where daemons connect [127.0.0.1:7801].")
@click.option("--enroll", type=ports.AddressType(), help="Where machines join [127.0.0.1:7802].")
@click.option("--redis-url", envvar="SWITCHBOARD_REDIS_URL", help="A Redis or Valkey instead of the embedded one.")
@click.option("--no-daemon", is_flag=True, help="Only the server: this machine runs no agents.")
@click.option("--tls-cert", type=click.Path(exists=True, path_type=Path), help="Serve the page over TLS.")
@click.option("--tls-key", type=click.Path(exists=True, path_type=Path))
@click.option("--public-url", help="What people type, when a reverse proxy stands before the server.")
@edge_options
@click.option(
    "--webhook",
    envvar="SWITCHBOARD_WEBHOOK",
    help="An address that is told when an approval waits (never what it asks). One with a secret in it belongs into "
    "SWITCHBOARD_WEBHOOK: everybody on this machine can read a command line.",
)
def up(
    data: Path | None,
    http: Address | None,
    grpc: Address | None,
    enroll: Address | None,
    redis_url: str | None,
    no_daemon: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    public_url: str | None,
    trusted_proxy: tuple[str, ...],
    allowed_host: tuple[str, ...],
    retention_days: int,
    webhook: str | None,
) -> None:
    """Start a switchboard and this machine's daemon, and keep them running until Ctrl-C."""
    closed.close()
    check_words()
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    if tls_cert and tls_key:
        check_certificate(tls_cert, tls_key)
    options = (
        *(("--tls-cert", str(tls_cert.resolve()), "--tls-key", str(tls_key.resolve())) if tls_cert and tls_key else ()),
        *(("--public-url", public_url) if public_url else ()),
        *passed_on(trusted_proxy, allowed_host, retention_days),
    )
    plan = Plan(
        data=_made(data or default_data()),
        said={"http": http, "grpc": grpc, "enroll": enroll},
        redis_url=redis_url,
        daemon=not no_daemon,
        server_options=options,
        public_url=public_url,
        webhook=webhook,
        tls=tls_cert is not None,
    )
    held = parts.lock(plan.data)
    try:
        leash = parts.Leash(plan.data, tell)
        leash.take()
        addresses = ports.choose(plan.data, plan.said, tell)
        if http and http[0] not in ("127.0.0.1", "::1", "localhost") and not plan.tls and not public_url:
            tell("people's passwords cross the network in the clear here: use --tls-cert and --tls-key, or a proxy")
        asyncio.run(_run(plan, addresses, leash))
    finally:
        held.close()


def tell(text: str) -> None:
    with contextlib.suppress(OSError):  # whoever read this is gone; everything goes on until it is told to end
        click.echo(text)


def _made(data: Path) -> Path:
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        data.chmod(0o700)
    except OSError as error:
        raise Failed(f"the data folder {data} cannot be made: {error.strerror}") from None
    return data.resolve()


def first_person() -> str:
    """Return the name under which whoever started this signs in."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = ""
    return re.sub(r"[^a-z0-9._-]", "-", name.lower()).lstrip("._-")[:40] or "admin"


async def _run(plan: Plan, addresses: Mapping[str, Address], leash: parts.Leash) -> None:
    house = House(
        data=plan.data,
        addresses=addresses,
        leash=leash,
        tell=tell,
        person=first_person(),
        daemon=plan.daemon,
        server_options=plan.server_options,
        redis_url=plan.redis_url,
        tls=plan.tls,
        public_url=plan.public_url,
        webhook=plan.webhook,
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            house.kill()
        else:
            tell("\nending everything (again: at once)")
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    working = asyncio.create_task(house.live(), name="house")
    greeting = asyncio.create_task(_greet(house), name="greeting")
    ended = asyncio.create_task(stopping.wait(), name="signal")
    try:
        await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (greeting, working, ended):
            task.cancel()
        outcomes = await asyncio.gather(greeting, working, ended, return_exceptions=True)
        await house.end()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise _first(outcome)


def _first(error: Exception) -> Exception:
    """Return the first leaf of a group: the reason, without the tasks that it went through."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _greet(house: House) -> None:
    """Say where everything is once it is there, and make a sign-in link whenever Enter is pressed."""
    await house.ready.wait()
    on_terminal = sys.stdout.isatty()
    tell("switchboard is up")
    tell(f"  panel    {house.base_url}")
    if on_terminal:
        await _tell_link(house)
        tell("           (good once, for 15 minutes; Enter makes another)")
    else:
        tell("  sign in  run this on a terminal to be given a one-time link: it is never written to a file")
    if house.has_daemon:
        tell(f"  machine  {plain(await house.machine_words())}")
    tell(f"  data     {house.data}")
    tell("Ctrl-C ends all of it.")
    if on_terminal and sys.stdin.isatty():
        await _links_on_enter(house)


async def _tell_link(house: House) -> None:
    try:
        tell(f"  sign in  {plain(await house.link())}")
    except ConnectionError:
        tell("  sign in  the switchboard is being started again: press Enter in a moment")
    except Failed as error:
        tell(f"  sign in  no link can be made: {plain(error.message)}")


async def _links_on_enter(house: House) -> None:
    pressed = asyncio.Event()
    loop = asyncio.get_running_loop()
    terminal = sys.stdin.fileno()

    def read() -> None:
        if os.tcgetpgrp(terminal) != os.getpgrp():
            loop.remove_reader(terminal)  # in the background, where reading would stop this process
            return
        if not os.read(terminal, 4096):
            loop.remove_reader(terminal)
        pressed.set()

    loop.add_reader(terminal, read)
    try:
        while True:
            await pressed.wait()
            pressed.clear()
            await _tell_link(house)
    finally:
        loop.remove_reader(terminal)
