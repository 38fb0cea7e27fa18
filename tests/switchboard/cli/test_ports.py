"""Where `up` listens."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from switchboard.cli.errors import Failed
from switchboard.cli.ports import DEFAULTS, LAST, AddressType, choose, free, reachable, shown

NOTHING_SAID = {"http": None, "grpc": None, "enroll": None}


@contextmanager
def taken(port: int = 0) -> Iterator[int]:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        yield other.getsockname()[1]


def test_other_ports_are_taken_when_the_ones_of_before_are_busy(tmp_path: Path) -> None:
    first = choose(tmp_path, NOTHING_SAID, print)
    with taken(first["http"][1]):
        second = choose(tmp_path, NOTHING_SAID, print)

    assert second["http"][1] != first["http"][1]
    assert second["grpc"] == first["grpc"]
    assert all(port <= LAST for _, port in second.values())


def test_a_chosen_port_is_kept_for_the_next_time(tmp_path: Path) -> None:
    default = DEFAULTS["http"]
    with taken() as _:
        (tmp_path / "ports.json").write_text(json.dumps({"http": default + 230}))
        kept = choose(tmp_path, NOTHING_SAID, print)["http"][1]

    assert kept == default + 230
    assert choose(tmp_path, NOTHING_SAID, print)["http"][1] == kept


def test_a_port_that_was_said_and_is_taken_is_one_clear_sentence(tmp_path: Path) -> None:
    with taken() as port, pytest.raises(Failed, match=rf"127\.0\.0\.1:{port} is taken by another program"):
        choose(tmp_path, {**NOTHING_SAID, "http": ("127.0.0.1", port)}, print)


def test_no_two_of_the_three_share_a_port(tmp_path: Path) -> None:
    with taken() as free_later:
        pass
    chosen = choose(tmp_path, {**NOTHING_SAID, "enroll": ("127.0.0.1", free_later)}, print)
    (tmp_path / "ports.json").write_text(json.dumps({"http": 7900, "grpc": 7900, "enroll": 7900}))
    again = choose(tmp_path, NOTHING_SAID, print)

    assert chosen["enroll"][1] == free_later
    assert len({port for _, port in again.values()}) == 3


@pytest.mark.parametrize("kept", ["", "[1]", "{", '{"http": "x", "grpc": -1, "enroll": 99999999}', "null"])
def test_a_damaged_note_of_the_ports_costs_nothing(tmp_path: Path, kept: str) -> None:
    (tmp_path / "ports.json").write_text(kept)

    assert set(choose(tmp_path, NOTHING_SAID, print)) == set(DEFAULTS)


def test_machines_join_where_daemons_connect(tmp_path: Path) -> None:
    with taken() as port:
        pass
    assert choose(tmp_path, {**NOTHING_SAID, "grpc": ("0.0.0.0", port)}, print)["enroll"][0] == "0.0.0.0"


def test_an_address_that_is_not_ours_is_one_clear_sentence() -> None:
    with pytest.raises(Failed, match="no address of this machine"):
        free("203.0.113.7", 7800)
    with pytest.raises(Failed, match="no address of this machine"):
        free("no-such-host.invalid", 7800)


@pytest.mark.parametrize("text", ["7800", ":7800", "host:", "host:99999", "host:x", "", "host:-1"])
def test_what_is_no_address_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not HOST:PORT"):
        AddressType().convert(text, None, None)


def test_addresses_are_read_as_they_are_shown() -> None:
    for address in (("127.0.0.1", 1), ("::1", 7800), ("example.com", 443)):
        assert AddressType().convert(shown(address), None, None) == address
    assert reachable(("0.0.0.0", 1)) == ("127.0.0.1", 1)
    assert reachable(("::", 1)) == ("::1", 1)
