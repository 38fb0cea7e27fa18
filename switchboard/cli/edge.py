"""What a server is told of where it stands, which `serve` takes for itself and `up` passes on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from switchboard.settings import Settings

Command = TypeVar("Command", bound=Callable[..., object])

DEFAULTS = Settings(data=Path())


def edge_options(command: Command) -> Command:
    """Give *command* the options trusted_proxy, allowed_host and retention_days."""
    for option in reversed(
        (
            click.option(
                "--trusted-proxy",
                multiple=True,
                default=DEFAULTS.trusted_proxies,
                show_default=True,
                metavar="ADDRESS",
                help="Whose X-Forwarded-For is believed.",
            ),
            click.option(
                "--allowed-host",
                multiple=True,
                metavar="HOST[:PORT]",
                help="A further name that the page is reached by, as browsers send it; others are refused.",
            ),
            click.option(
                "--retention-days",
                type=click.IntRange(1, 3650),
                default=DEFAULTS.retention.days,
                show_default=True,
                help="How long ended runs and their output are kept.",
            ),
        )
    ):
        command = option(command)
    return command


def passed_on(trusted_proxy: Sequence[str], allowed_host: Sequence[str], retention_days: int) -> tuple[str, ...]:
    """Return the words that give another `serve` the same."""
    return (
        *(word for address in trusted_proxy for word in ("--trusted-proxy", address)),
        *(word for host in allowed_host for word in ("--allowed-host", host)),
        *("--retention-days", str(retention_days)),
    )
