"""How a server is found, and the one sentence for every way in which that goes wrong."""

import http.server
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import pytest

from daemon import answers, apart
from switchboard.cli.client import ANSWERS_S, Message, Place, Server, _messages, default_data, find, part
from switchboard.cli.errors import Away, Failed, NotSignedIn
from switchboard.cli.machines import RESTORE_S
from switchboard.cli.runs import DIFF_S
from switchboard.web import machines as web_machines
from switchboard.web import output as web_output


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SWITCHBOARD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


def up_json(folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    known = {"http": "http://127.0.0.1:7800", "token": "sbt_file", "person": "ana", "machine": "m-1", **changes}
    (folder / "up.json").write_text(json.dumps(known))


def test_an_address_comes_before_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    up_json(tmp_path)
    monkeypatch.setenv("SWITCHBOARD_TOKEN", "sbt_env")

    assert find("https://x.example/", None, str(tmp_path)) == Place("https://x.example", "sbt_env")


def test_the_token_of_a_folder_is_never_shown_to_another_server(tmp_path: Path) -> None:
    up_json(default_data())

    assert find("https://x.example", None, None).token == ""


def test_a_folder_that_was_named_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    up_json(tmp_path)
    monkeypatch.setenv("SWITCHBOARD_URL", "https://x.example")

    assert find(None, None, str(tmp_path)).url == "http://127.0.0.1:7800"
    assert find(None, None, None).url == "https://x.example"


def test_without_a_word_it_is_the_folder_of_up(tmp_path: Path) -> None:
    with pytest.raises(Away, match="no switchboard runs with the data in"):
        find(None, None, None)
    up_json(default_data())

    assert find(None, None, None) == Place("http://127.0.0.1:7800", "sbt_file", "ana", "m-1")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "\x00"])
def test_a_damaged_up_json_is_one_clear_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "up.json").write_text(text)

    with pytest.raises(Failed, match=r"up\.json cannot be read"):
        find(None, None, str(tmp_path))


@pytest.mark.parametrize(
    "url",
    [
        *("x.example", "ftp://x", "http://", "file:///etc/passwd", "javascript:alert(1)"),
        *("http://h:abc", "http://h:99999", "http://[::1", f"http://{'a' * 64}", "http://h/\x00", "http://\udcff"),
    ],
)
def test_what_is_no_address_is_a_usage_error(url: str) -> None:
    with pytest.raises(click.UsageError, match="is not an address"):
        find(url, None, None)


def test_nobody_there_is_said_in_a_sentence() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Away, match=f"no switchboard answers at {url}"):
            Server(Place(url)).get("/runs")


@contextmanager
def stranger(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server on loopback that is no switchboard."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def say(status: int, body: bytes) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>"), (404, b"<html>"), (500, b""), (404, b"[]"), (403, b'{"error": 0}')]
)
def test_a_server_that_is_no_switchboard_is_said_to_be_none(status: int, body: bytes) -> None:
    with stranger(say(status, body)) as url, pytest.raises(Failed, match="is not a switchboard"):
        Server(Place(url)).get("/runs")


def test_a_server_that_hangs_up_is_said_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switchboard.cli.client.time.sleep", lambda _: None)
    with stranger(lambda handler: handler.connection.close()) as url, pytest.raises(Away, match="did not answer"):
        Server(Place(url)).get("/runs")


def test_a_password_never_crosses_a_network_in_the_clear() -> None:
    with pytest.raises(Failed, match=r"a password is not sent over plain http to x\.example"):
        Server(Place("http://x.example")).as_person("ana", "secret")
    Server(Place("http://127.0.0.1:1")).as_person("ana", "secret")
    Server(Place("https://x.example")).as_person("ana", "secret")


def test_a_proxy_is_not_asked_for_what_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with stranger(say(200, b'{"ok": 1}')) as url:
        assert Server(Place(url, "sbt_secret")).get("/healthz") == {"ok": 1}


def test_a_cut_stream_is_taken_up_where_it_was() -> None:
    asked: list[str | None] = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        after = handler.headers["Last-Event-ID"]
        asked.append(after)
        first = int(after or 0) + 1
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b": ping\n\n")
        for seq in range(first, min(first + 2, 6)):
            handler.wfile.write(f'id: {seq}\nevent: output\ndata: {{"seq": {seq}}}\n\n'.encode())
        if first + 2 >= 6:
            handler.wfile.write(b"event: end\ndata: {}\n\n")

    with stranger(answer) as url:
        got = list(Server(Place(url)).follow("/runs/r/output/stream"))

    assert [message.id for message in got[:-1]] == ["1", "2", "3", "4", "5"]
    assert got[-1].event == "end"
    assert asked == [None, "2", "4"]


def test_a_refusal_ends_a_stream_at_once() -> None:
    with stranger(say(403, b'{"error": "you may not"}')) as url, pytest.raises(Failed, match="you may not"):
        list(Server(Place(url)).follow("/events"))


def test_the_event_stream_format_is_read_as_its_standard_says() -> None:
    lines = iter(["data:a", "data: b", "", ": note", "", "id: 7", "event: run", "data:", "", "event: end", ""])

    assert list(_messages(lines)) == [Message("", "message", "a\nb"), Message("7", "run", ""), Message("7", "end", "")]


@pytest.mark.parametrize("id", ["a?x=1", "a#b", "a b", "é", "%2e%2e"])
def test_an_id_stays_one_part_of_the_path(id: str) -> None:
    path = httpx.URL("http://x/api/v1/runs/" + part(id)).raw_path.decode()

    assert path.count("/") == 4
    assert "?" not in path


@pytest.mark.parametrize("id", ["", ".", "..", "../people", "a/b", "\udcff"])
def test_what_can_be_no_id_is_refused(id: str) -> None:
    with pytest.raises(Failed):
        part(id)


def test_the_folder_of_up_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_data().parts[-3:] == ("Library", "Application Support", "switchboard")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_data() == Path.home() / ".local" / "share" / "switchboard"


@pytest.mark.parametrize("token", ["sbt_x\n", "sbt_\u00e9", "sbt x", "sbt_\udcff", "sbt_\x1b[2J"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(NotSignedIn, match="copy it again") as refused:
        Server(Place("http://127.0.0.1:1", token))
    assert "sbt" not in str(refused.value)


def test_a_question_that_was_too_slow_is_not_put_again() -> None:
    asked: list[str] = []
    over = threading.Event()

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        over.wait(30)

    with stranger(answer) as url:
        with pytest.raises(Away, match="it took too long"):
            Server(Place(url)).get("/runs/r/diff", within=0.2)
        over.set()
    assert asked == ["/api/v1/runs/r/diff"]


def test_each_side_waits_longer_than_the_one_behind_it() -> None:
    assert ANSWERS_S > web_machines.ANSWER_S > answers.SAFETY_S
    assert DIFF_S > web_output.DIFF_S > apart.DIFF_S
    assert RESTORE_S > web_machines.RESTORE_S > apart.RESTORE_S
