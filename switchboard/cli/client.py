"""The way to the server: where it is, who asks, and one clear sentence for everything that can go wrong between."""

import contextlib
import json
import os
import random
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click
import httpx

from switchboard.cli import stdin
from switchboard.cli.errors import Away, Failed, NotSignedIn
from switchboard.cli.text import plain

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_KINDS: dict[int, type[Failed]] = {
    httpx.codes.UNAUTHORIZED: NotSignedIn,
    httpx.codes.SERVICE_UNAVAILABLE: Away,
}
ANSWERS_S = 60.0  # more than the server takes for all but what is said to take longer
PATIENCE_S = 60.0  # how long a stream that was cut is taken up again before the command gives up


def default_data() -> Path:
    """Return the folder that `switchboard up` uses unless told otherwise."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "switchboard"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "switchboard"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is, and what this command may show it."""

    url: str
    token: str = ""
    person: str = ""
    machine: str = ""  # the one whose daemon `up` runs here; empty when the server is elsewhere


@dataclass(frozen=True, slots=True)
class Message:
    """One event of a live stream."""

    id: str
    event: str
    data: str


def find(url: str | None, token: str | None, data: str | None) -> Place:
    """Return the server that was named: by address, else by the data folder of a `switchboard up` on this machine."""
    env = os.environ
    if not url and not data:
        url = env.get("SWITCHBOARD_URL")
    if url:
        if not _is_address(url):
            raise click.UsageError(f"{plain(url)} is not an address: say http://HOST:PORT or https://HOST")
        return Place(url.rstrip("/"), token or env.get("SWITCHBOARD_TOKEN") or "")
    folder = Path(data or env.get("SWITCHBOARD_DATA") or default_data())
    try:
        known = json.loads((folder / "up.json").read_text())
        place = Place(str(known["http"]), str(known["token"]), str(known["person"]), str(known["machine"]))
    except FileNotFoundError:
        raise Away(
            f"no switchboard runs with the data in {folder}: start it with `make up`, or name another with --url or --data"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failed(
            f"{folder / 'up.json'} cannot be read ({error}): end `switchboard up` and start it again"
        ) from None
    return replace(place, token=token or place.token)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = httpx.URL(url).host.encode("idna")  # as it is looked up
        return parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except (ValueError, httpx.InvalidURL):  # brackets, ports and names that are none
        return False


def ask_password(person: str, from_stdin: bool, *, again: bool = False) -> str:
    """Return the password, from the terminal or the first line of stdin; never from the command line."""
    if from_stdin:
        password = stdin.line("the password")
        if not password:
            raise Failed("the password was to come on stdin, but there was none")
        return password
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        raise Failed("there is no terminal to ask for the password on: use --password-stdin") from None
    return str(click.prompt(f"Password of {plain(person)}", hide_input=True, err=True, confirmation_prompt=again))


class Server:
    """A switchboard, spoken to by REST. Every way to fail ends in a Failed or an Away with one sentence."""

    def __init__(self, place: Place, auth: httpx.Auth | None = None) -> None:
        self.place = place
        host = urlsplit(place.url).hostname or ""
        if isinstance(auth, httpx.BasicAuth) and place.url.startswith("http:") and host not in LOOPBACK:
            raise Failed(f"a password is not sent over plain http to {host}: use an https address")
        headers = {"Accept": "application/json"}
        if auth is None and place.token:
            headers["Authorization"] = f"Bearer {_sendable(place.token)}"
        self._http = httpx.Client(
            base_url=place.url + "/api/v1",
            auth=auth,
            headers=headers,
            trust_env=host not in LOOPBACK,  # a proxy has no business with what never leaves this machine
            verify=_trusted(),
        )

    def as_person(self, person: str, password: str) -> "Server":
        return Server(self.place, httpx.BasicAuth(person, password))

    @property
    def known(self) -> bool:
        """Whether there is anything to show the server."""
        return "Authorization" in self._http.headers or self._http.auth is not None

    def get(self, path: str, *, within: float = ANSWERS_S, **query: Any) -> Any:
        return self._call("GET", path, query=query, within=within)

    def post(self, path: str, body: Any = None, *, repeat: bool = False, within: float = ANSWERS_S) -> Any:
        """POST *body*. With *repeat* a lost reply is asked for again: only for bodies that carry their own request id."""
        return self._call("POST", path, body=body if body is not None else {}, repeat=repeat, within=within)

    def patch(self, path: str, body: Any) -> Any:
        return self._call("PATCH", path, body=body)

    def put(self, path: str, body: Any) -> Any:
        return self._call("PUT", path, body=body)

    def delete(self, path: str, body: Any = None) -> Any:
        return self._call("DELETE", path, body=body)

    def pages(self, path: str, key: str, **query: Any) -> Iterator[Any]:
        """Yield the rows of a list, page after page."""
        after: Any = None
        while True:
            page = self.get(path, limit=1000, after=after, **query)
            yield from page[key]
            after = page.get("next")
            if not after:
                return

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Any = None,
        body: Any = None,
        repeat: bool = False,
        within: float = ANSWERS_S,
    ) -> Any:
        params = {k: v for k, v in (query or {}).items() if v not in (None, "", ())}
        for wait in (0.3, 1.0, 3.0, None):
            try:
                answer = self._http.request(
                    method, path, params=params, json=body, timeout=httpx.Timeout(within, connect=5)
                )
                return self._read(answer)
            except httpx.ConnectError as error:
                raise self._nobody(error) from None
            except httpx.HTTPError as error:
                # A question that was too slow once is as slow again; a reply that was lost is not.
                again = repeat or (method == "GET" and not isinstance(error, httpx.ReadTimeout))
                if wait is None or not again:
                    raise Away(f"{self.place.url} did not answer ({_why(error)}): look whether it happened") from None
                time.sleep(wait)
        raise AssertionError("the last wait is None")

    def _nobody(self, error: httpx.ConnectError) -> Away:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Away(f"the certificate of {self.place.url} is not trusted here: name its CA's file in SSL_CERT_FILE")
        return Away(f"no switchboard answers at {self.place.url}: is it running? `make up` starts one on this machine")

    def _read(self, answer: httpx.Response) -> Any:
        try:
            body = answer.json() if answer.content else None
        except ValueError:
            raise Failed(
                f"{self.place.url} is not a switchboard: it answered {answer.status_code} without JSON"
            ) from None
        if answer.is_success:
            return body
        sentence = str(body.get("error") or "") if isinstance(body, dict) else ""
        if not sentence:
            raise Failed(f"{self.place.url} is not a switchboard: it answered {answer.status_code}")
        raise _KINDS.get(answer.status_code, Failed)(sentence)

    def follow(self, path: str, after: str = "") -> Iterator[Message]:
        """Yield a live stream, taken up again after *after* whenever it is cut; ends with the server's own end."""
        delay, cut_at = 0.2, None
        while True:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
            try:
                with self._http.stream(
                    "GET", path, headers=headers, timeout=httpx.Timeout(5, read=45)
                ) as answer:  # the server speaks at least each 15 s
                    if not answer.is_success:
                        answer.read()
                        self._read(answer)
                    for message in _messages(answer.iter_lines()):
                        delay, cut_at = 0.2, None
                        after = message.id or after
                        yield message
                        if message.event == "end":
                            return
            except (httpx.HTTPError, Away) as error:
                reason = error
            else:
                reason = Away("the stream was closed")
            cut_at = cut_at or time.monotonic()
            if time.monotonic() - cut_at > PATIENCE_S:
                raise Away(f"{self.place.url} has not answered for {PATIENCE_S:.0f} s ({_why(reason)})") from None
            time.sleep(random.uniform(0, delay))  # noqa: S311 - jitter, not a secret
            delay = min(delay * 2, 5)


def _sendable(token: str) -> str:
    """Return *token*. Raises NotSignedIn, which does not show it, for what no header can carry."""
    if token.isascii() and token.isprintable() and " " not in token:
        return token
    raise NotSignedIn("the token holds a space, a line end or another character that no token has: copy it again")


def _trusted() -> ssl.SSLContext | bool:
    """Return whom to trust: the authorities of the user's own file, else the public ones."""
    file = os.environ.get("SSL_CERT_FILE")
    if not file:
        return True
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        raise Failed(f"SSL_CERT_FILE={file} cannot be used: {error.strerror or error}") from None


def _why(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "it took too long"
    return str(error) or type(error).__name__


def _messages(lines: Iterator[str]) -> Iterator[Message]:
    """Read the event-stream format: fields until an empty line; comments only keep the link alive."""
    id, event, data = "", "message", list[str]()
    for line in lines:
        if not line:
            if data or event != "message":
                yield Message(id, event, "\n".join(data))
            event, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            id = value
        elif field == "event":
            event = value
        elif field == "data":
            data.append(value)


def part(text: str) -> str:
    """Return *text* as one part of a path, whatever stands in it."""
    if text in ("", ".", "..") or "/" in text:  # servers take an escaped / for a real one
        raise Failed(f"{text!r} is not an id")
    with contextlib.suppress(UnicodeEncodeError):
        return quote(text, safe="")
    raise Failed("the id is not valid UTF-8")
