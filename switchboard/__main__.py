"""`switchboard`, or `python -m switchboard`: runs a command and never shows a stack trace."""

import os
import sys
import traceback
from pathlib import Path

import click

from switchboard.cli import cli

INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        code = cli.main(prog_name="switchboard", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("switchboard: ended by you", err=True)
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:  # a bug of ours: its story goes to a file, a sentence to the person
        click.echo(f"switchboard: a fault of ours ({type(error).__name__}); {_record()}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _record() -> str:
    """Write the story of the present error to a file of the user's own, and say where."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "switchboard"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(folder / "faults.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as log:
            log.write(traceback.format_exc() + "\n")
    except OSError as error:
        return f"its story could not be written: {error}"
    return f"its story is in {folder / 'faults.log'}"


if __name__ == "__main__":
    main()
