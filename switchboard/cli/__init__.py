"""The command line: a client of the server's REST like any other, and what starts the server.

Nothing here decides. A command that was refused says one sentence; the exit codes are 0, 1 (refused or failed), 2 (usage),
3 (not reachable, or only in part) and 130 (ended by Ctrl-C).
"""

import click

from switchboard.cli.approvals import approval, approvals, approve, deny
from switchboard.cli.machines import machines, safety
from switchboard.cli.people import audit, passwd, people, tokens
from switchboard.cli.runs import purge, run, runs
from switchboard.cli.serve import serve
from switchboard.cli.stops import stop
from switchboard.cli.up import up


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="switchboard-fleet", prog_name="switchboard")
def cli() -> None:
    """See, stop and decide for every coding agent that a team runs on its own machines."""


for command in (
    up,
    serve,
    run,
    runs,
    approvals,
    approval,
    approve,
    deny,
    stop,
    machines,
    safety,
    people,
    passwd,
    tokens,
    audit,
    purge,
):
    cli.add_command(command)
