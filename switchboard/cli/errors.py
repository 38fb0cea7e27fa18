"""How a command ends when it did not do what it was asked: one sentence on stderr and an exit code with a meaning."""

import sys
from typing import IO, Any

import click

from switchboard.cli.text import plain

REFUSED = 1  # refused or failed
AWAY = 3  # not reachable, or only in part


class Failed(click.ClickException):
    """Refused by the server, or failed here."""

    exit_code = REFUSED

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"switchboard: {plain(self.message)}", file=file or sys.stderr)


class NotSignedIn(Failed):
    """Nobody is known by what the server was shown, or was to be shown."""


class Away(Failed):
    """Nobody answers, or not all of it could be reached."""

    exit_code = AWAY
