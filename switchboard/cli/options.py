"""What every client command shares: which server, who asks, and whether people or programs read the answer."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from switchboard.cli import client, stdin
from switchboard.cli.client import Server
from switchboard.cli.errors import Failed
from switchboard.cli.tables import Printer

Command = Callable[..., Any]


class Session:
    """One command's dealings with its server."""

    def __init__(self, place: client.Place, person: str | None, from_stdin: bool, out: Printer) -> None:
        self.place, self.out = place, out
        self._person, self._from_stdin = person, from_stdin
        self._signed_in: Server | None = None
        self._password: str | None = None

    @property
    def person(self) -> str:
        if name := self._person or self.place.person:
            return name
        raise Failed("say who you are: --as NAME, or a token in SWITCHBOARD_TOKEN")

    @functools.cached_property
    def server(self) -> Server:
        """The server as the token sees it, or as the person where --as was said or no token is at hand."""
        if self._person or self._from_stdin or not self.place.token:
            return self.signed_in
        return Server(self.place)

    @property
    def is_named(self) -> bool:
        """Whether it is known who could sign in."""
        return bool(self._person or self.place.person)

    @property
    def has_token(self) -> bool:
        return bool(self.place.token)

    @property
    def has_signed_in(self) -> bool:
        return self._signed_in is not None

    def token_server(self) -> Server:
        return Server(self.place)

    @property
    def signed_in(self) -> Server:
        """The server as a person sees it; asks for the password once. No token can vote, lift, or change people and machines."""
        if self._signed_in is None:
            self._signed_in = Server(replace(self.place, token="")).as_person(self.person, self._asked())
        return self._signed_in

    def stdin(self, what: str, limit: int = -1) -> str:
        """Return what comes on stdin, behind the password where that comes there too. Raises Failed."""
        if self._from_stdin:
            self._asked()
        return stdin.rest(what, limit)

    def _asked(self) -> str:
        if self._password is None:
            self._password = client.ask_password(self.person, self._from_stdin)
        return self._password


def server_options(command: Command) -> Command:
    """Add the options that find the server, and hand the command a Session as its first argument."""

    @click.option("--url", metavar="URL", help="The server's address [SWITCHBOARD_URL].")
    @click.option(
        "--token", metavar="TOKEN", help="An API token; better in SWITCHBOARD_TOKEN, where `ps` does not show it."
    )
    @click.option(
        "--data", metavar="DIR", help="The data folder of a `switchboard up` on this machine [SWITCHBOARD_DATA]."
    )
    @click.option("--as", "person", metavar="NAME", help="Sign in as NAME; the password is asked on the terminal.")
    @click.option("--password-stdin", is_flag=True, help="Read the password from the first line of stdin.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        url: str | None,
        token: str | None,
        data: str | None,
        person: str | None,
        password_stdin: bool,
        as_json: bool,
        **options: Any,
    ) -> Any:
        check_words()
        out = Printer(as_json)
        return command(Session(client.find(url, token, data), person, password_stdin, out), *args, **options)

    return wrapped


FILES = frozenset({"data", "edited"})  # names of this machine's own files, which need not be UTF-8


def check_words() -> None:
    """Raises Failed for a word of the present command that is not valid UTF-8: no server could be told it."""
    context = click.get_current_context()
    for parameter in context.command.params:
        said = context.params.get(parameter.name or "")
        for word in said if isinstance(said, tuple) else (said,):
            if isinstance(word, str) and parameter.name not in FILES and not _is_utf8(word):
                name = max(parameter.opts, key=len) if isinstance(parameter, click.Option) else parameter.name
                raise Failed(f"{name} is not valid UTF-8")


def _is_utf8(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def machine_id(server: Server, name: str) -> str:
    """Return the id of the machine that people call *name*, or whose id it is."""
    machines = server.get("/machines")["machines"]
    for machine in machines:
        if machine["id"] == name:
            return name
    found = [machine for machine in machines if machine["name"] == name and machine.get("standing") != "revoked"]
    if len(found) == 1:
        return str(found[0]["id"])
    if found:
        raise Failed(f"{len(found)} machines are called {name}: use one of the ids {', '.join(m['id'] for m in found)}")
    known = ", ".join(sorted(m["name"] for m in machines)[:20]) or "none yet"
    raise Failed(f"no machine is called {name}; known are: {known}")
