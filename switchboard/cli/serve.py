"""`switchboard serve`: one server in the foreground, as a service manager or `up` starts it."""

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import click

from switchboard import closed
from switchboard.cli.client import default_data
from switchboard.cli.edge import edge_options
from switchboard.cli.errors import Failed
from switchboard.cli.line import Line
from switchboard.cli.options import check_words
from switchboard.cli.ports import AddressType
from switchboard.cli.text import plain
from switchboard.domain.errors import SwitchboardError
from switchboard.settings import ENROLL_PORT, GRPC_PORT, HTTP_PORT, Address, Settings


@click.command("serve")
@click.option("--data", type=click.Path(path_type=Path), envvar="SWITCHBOARD_DATA", help="Where everything is kept.")
@click.option("--http", type=AddressType(), default=f"127.0.0.1:{HTTP_PORT}", show_default=True)
@click.option("--grpc", type=AddressType(), default=f"127.0.0.1:{GRPC_PORT}", show_default=True)
@click.option("--enroll", type=AddressType(), default=f"127.0.0.1:{ENROLL_PORT}", show_default=True)
@click.option("--redis-url", envvar="SWITCHBOARD_REDIS_URL", help="A Redis or Valkey instead of the embedded one.")
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--public-url", help="What people type, when a reverse proxy stands before the server.")
@click.option(
    "--webhook",
    envvar="SWITCHBOARD_WEBHOOK",
    help="An address that is told when an approval waits (never what it asks). One with a secret in it belongs into "
    "SWITCHBOARD_WEBHOOK: everybody on this machine can read a command line.",
)
@edge_options
@click.option("--person", default="admin", show_default=True, help="The first person of an empty team.")
@click.option("--parent-fd", type=int, hidden=True)
def serve(
    data: Path | None,
    http: Address,
    grpc: Address,
    enroll: Address,
    redis_url: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    public_url: str | None,
    trusted_proxy: tuple[str, ...],
    allowed_host: tuple[str, ...],
    retention_days: int,
    webhook: str | None,
    person: str,
    parent_fd: int | None,
) -> None:
    """Run a switchboard server until it is told to end."""
    closed.close()
    check_words()
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    if tls_cert and tls_key:
        check_certificate(tls_cert, tls_key)
    try:
        import uvloop

        from switchboard import app, log
    except ModuleNotFoundError as error:
        raise Failed(
            f"the server's parts are not installed ({error.name}): pip install 'switchboard-fleet[server]'"
        ) from None
    settings = Settings(
        data=(data or default_data()).resolve(),
        http=http,
        grpc=grpc,
        enroll=enroll,
        redis_url=redis_url,
        tls_cert=tls_cert,
        tls_key=tls_key,
        public_url=public_url,
        webhook=webhook,
        person=person,
        trusted_proxies=trusted_proxy,
        extra_hosts=allowed_host,
        retention=timedelta(days=retention_days),
    )
    log.set_up()

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            # On a terminal, and without a parent that does it, whoever starts the server is the one to sign in first.
            fd = parent_fd
            if fd is None and sys.stdout.isatty():
                fd = await stack.enter_async_context(_greeting())
            await app.serve(settings, fd)

    try:
        uvloop.run(run())
    except (SwitchboardError, OSError, ExceptionGroup) as error:
        raise Failed(_sentence(error)) from error


def check_certificate(cert: Path, key: Path) -> None:
    """Raises Failed when the two cannot be served with."""
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Failed(f"{cert} and {key} cannot be served with: {reason}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is there to type its password")


@contextlib.asynccontextmanager
async def _greeting() -> AsyncIterator[int]:
    """Give the server's end of a line over which a sign-in link is asked for and printed."""
    ours, theirs = socket.socketpair()
    line = await Line.over(ours)

    async def greet() -> None:
        with contextlib.suppress(ConnectionError):  # the server did not come to serve, and says why itself
            click.echo(f"switchboard serves {plain((await line.ask('ready'))['http'])}")
            click.echo(f"  sign in  {plain((await line.ask('link'))['link'])}")
            click.echo("           (good once, for 15 minutes)")

    greeting = asyncio.create_task(greet(), name="greeting")
    try:
        yield theirs.detach()
    finally:
        greeting.cancel()
        await asyncio.gather(greeting, return_exceptions=True)
        line.close()


def _sentence(error: BaseException) -> str:
    """Return what a person can act on; anything else goes on as the fault that it is."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, SwitchboardError):
        return str(error)
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}"
    raise error
