"""The server around the API: TLS of its own, a proxy in front, and names and addresses that it believes."""

import ssl
from pathlib import Path

import pytest
from helpers.house import PASSWORD, House, house
from helpers.tls import self_signed

from switchboard.web.access import V1
from switchboard.web.settings import WebSettings


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return self_signed(tmp_path)


async def sign_in(home: House, password: str = PASSWORD, **headers: str):
    return await home.nobody(**headers).post(f"{V1}/session", json={"person": "ana", "password": password})


async def test_with_a_certificate_of_its_own_it_speaks_tls(store_url: str, certificate: tuple[Path, Path]):
    async with house(store_url, tls=certificate) as home:
        trusting = ssl.create_default_context(cafile=str(certificate[0]))
        client = home.nobody(verify=trusting, origin=home.url)
        answer = await client.post(f"{V1}/session", json={"person": "ana", "password": PASSWORD})
        who = await client.get(f"{V1}/session")

    assert home.url.startswith("https://")
    assert answer.headers["set-cookie"].startswith("__Host-switchboard=")
    assert who.json()["person"] == "ana"


async def test_behind_a_proxy_guesses_count_for_the_address_that_it_names(store_url: str):
    async with house(store_url, public_url="https://board.example.org") as home:
        board = {"host": "board.example.org", "x-forwarded-proto": "https"}
        await sign_in(home, **board, **{"x-forwarded-for": "203.0.113.1"})
        guesses = [await sign_in(home, "guess", **board, **{"x-forwarded-for": "203.0.113.9"}) for _ in range(7)]
        owner = await sign_in(home, **board, **{"x-forwarded-for": "203.0.113.1"})

    assert [answer.status_code for answer in guesses] == [401] * 5 + [429] * 2
    assert owner.status_code == 200


async def test_without_a_proxy_nobody_chooses_their_address(store_url: str):
    async with house(store_url) as home:
        guesses = [await sign_in(home, "guess", **{"x-forwarded-for": f"203.0.113.{n}"}) for n in range(7)]
    assert guesses[-1].status_code == 429


async def test_behind_a_proxy_only_its_pages_are_ours(store_url: str):
    async with house(store_url, public_url="https://board.example.org") as home:
        for origin, status in [
            ("https://board.example.org", 200),
            (home.url, 200),
            ("http://board.example.org", 403),
            ("https://board.example.org:8443", 403),
            ("https://evil.example.org", 403),
        ]:
            assert (await sign_in(home, host="board.example.org", origin=origin)).status_code == status, origin


class TestNames:
    def test_a_server_for_every_address_answers_to_addresses_but_to_no_strange_name(self):
        settings = WebSettings(host="0.0.0.0", port=7800)
        assert settings.answers("192.168.1.5:7800")
        assert settings.answers("[fe80::1]:7800")
        assert settings.answers("localhost:7800")
        assert not settings.answers("evil.example:7800")
        assert not settings.answers("192.168.1.5:80")
        assert settings.ours("http://192.168.1.5:7800")
        assert not settings.ours("https://192.168.1.5:7800")
        assert not settings.ours("http://evil.example:7800")

    def test_a_loopback_server_answers_to_no_other_address(self):
        assert not WebSettings(port=7800).answers("192.168.1.5:7800")

    def test_default_ports_may_be_left_out_only_where_they_are_the_default(self):
        assert WebSettings(port=80).answers("localhost")
        assert not WebSettings(port=7800).answers("localhost")
        assert WebSettings(port=7800, public_url="https://b.example").answers("b.example")
        assert WebSettings(port=7800, public_url="https://b.example").answers("B.example:443")
        assert not WebSettings(port=7800, public_url="https://b.example:8443").answers("b.example")

    def test_further_names_can_be_given(self):
        settings = WebSettings(port=7800, extra_hosts=("Board.lan:7800",))
        assert settings.answers("board.lan:7800")
        assert settings.ours("http://board.lan:7800")
