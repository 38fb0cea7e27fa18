"""Signing in over HTTP: cookies, secrets, and what a browser of another page is refused."""

import base64

import httpx
import pytest
from helpers.house import PASSWORD, House, house

from switchboard.domain.people import Role
from switchboard.services.passwords import LONGEST


class TestSigningIn:
    async def test_the_cookie_is_for_the_server_only_and_never_holds_the_page_secret(self, home: House):
        answer = await home.nobody().post("/api/v1/session", json={"person": "ana", "password": PASSWORD})

        cookie = answer.headers["set-cookie"]
        assert answer.json()["solo"] is True
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert cookie.startswith(f"switchboard-{home.web.port}=")
        assert answer.json()["page_secret"] not in cookie

    async def test_with_tls_or_behind_a_proxy_with_it_the_cookie_is_host_bound_and_secure(self, store_url: str):
        async with house(store_url, public_url="https://board.example.org") as made:
            answer = await made.nobody(host="board.example.org").post(
                "/api/v1/session", json={"person": "ana", "password": PASSWORD}
            )

        assert answer.headers["set-cookie"].startswith("__Host-switchboard=")
        assert "Secure" in answer.headers["set-cookie"]
        assert "domain" not in answer.headers["set-cookie"].lower()
        assert "strict-transport-security" in answer.headers

    async def test_a_wrong_password_is_401_without_an_invitation_to_a_browser_dialog(self, home: House):
        answer = await home.nobody().post("/api/v1/session", json={"person": "ana", "password": "wrong"})

        assert answer.status_code == 401
        assert "www-authenticate" not in answer.headers
        assert answer.json()["error"] == "the name or the password is wrong"

    async def test_guessing_ends_in_429_which_says_how_long_to_wait(self, home: House):
        client = home.nobody()
        answers = [await client.post("/api/v1/session", json={"person": "ana", "password": "guess"}) for _ in range(6)]

        assert [a.status_code for a in answers] == [401] * 5 + [429]
        assert int(answers[-1].headers["retry-after"]) >= 1

    async def test_looking_at_a_link_changes_nothing_and_posting_it_uses_it_up(self, home: House):
        link = await home.services.people.first_link("ana")
        address, _, secret = link.partition("#")
        client = home.nobody(origin=home.url)
        for _ in range(100):
            assert (await client.get(address)).status_code == 200

        first = await client.post("/api/v1/session/link", json={"secret": secret})
        again = await client.post("/api/v1/session/link", json={"secret": secret})

        assert first.status_code == 200
        assert again.status_code == 401
        assert "used before" in again.json()["error"]

    async def test_a_first_link_asks_for_a_password(self, home: House):
        _, link = await home.services.people.invite(await home.ana(), "ben", "Ben", Role.VIEWER)

        answer = await home.nobody().post("/api/v1/session/link", json={"secret": link.partition("#")[2]})

        assert answer.status_code == 409
        assert answer.json()["needs"] == "password"
        assert answer.json()["person"] == "ben"

    async def test_signing_out_ends_the_session_on_the_server(self, home: House):
        client = await home.browser("ana")
        kept = dict(client.cookies)

        assert (await client.delete("/api/v1/session")).status_code == 200

        client.cookies.update(kept)
        assert (await client.get("/api/v1/session")).status_code == 401

    async def test_an_overlong_password_is_refused_before_it_costs_anything(self, home: House):
        answer = await home.nobody().post("/api/v1/session", json={"person": "ana", "password": "x" * (LONGEST * 4)})
        assert answer.status_code == 400

    @pytest.mark.parametrize(
        "value",
        [
            "Basic",
            "Basic !!!",
            "Basic YW5h",
            "Basic " + base64.b64encode(b"\xff:\xff").decode(),
            "Bearer",
            "Digest x",
            "Bearer sbt_nope",
        ],
    )
    async def test_an_authorization_that_is_none_is_401(self, home: House, value: str):
        answer = await home.nobody(authorization=value).get("/api/v1/runs")
        assert answer.status_code == 401
        assert "www-authenticate" not in answer.headers


class TestForgedRequests:
    """What pages of other sites, other ports and rebound names can make a browser send."""

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "http://127.0.0.1:1"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},  # another port of this machine
            {"x-csrf-token": "wrong"},
            {"x-csrf-token": ""},
        ],
        ids=lambda h: "=".join(next(iter(h.items()))) or "none",
    )
    async def test_a_signed_in_browser_is_refused_when_the_request_comes_from_elsewhere(
        self, home: House, headers: dict[str, str]
    ):
        client = await home.browser("ana")

        answer = await client.post(
            "/api/v1/orders", json={"selector": {"all": True}, "reason": "evil"}, headers=headers
        )

        assert answer.status_code == 403
        assert home.services.projection.orders() == []

    async def test_without_an_origin_the_cookie_counts_for_nothing(self, home: House):
        client = await home.browser("ana")
        del client.headers["origin"]

        answer = await client.post("/api/v1/orders", json={"selector": {"all": True}, "reason": "evil"})

        assert answer.status_code == 403

    async def test_whoever_has_the_cookie_but_not_the_page_is_told_to_sign_in(self, home: House):
        client = await home.browser("ana")
        del client.headers["x-page-secret"]
        for method, path, body in [
            ("POST", "/api/v1/approvals/x/votes", {"verdict": "approve", "digest": "d"}),
            ("POST", "/api/v1/runs", {"repo": "/srv/shop", "prompt": "p", "machine": "m"}),
            ("POST", "/api/v1/runs/x/messages", {"text": "go on"}),
            ("POST", "/api/v1/runs/x/stop", {"reason": "r"}),
            ("POST", "/api/v1/orders", {"selector": {"all": True}, "reason": "r"}),
            ("POST", "/api/v1/orders/x/lift", {"reason": "r"}),
            ("POST", "/api/v1/machines/m/safety/s/restore", {"into": "/tmp/x"}),
            ("POST", "/api/v1/people", {"id": "eve", "role": "admin"}),
            ("POST", "/api/v1/people/ana/link", {}),
            ("PUT", "/api/v1/session/password", {"password": "a password of eve"}),
            ("POST", "/api/v1/tokens", {"name": "t", "permits": ["start"]}),
            ("POST", "/api/v1/machines/invites", {"name": "m"}),
        ]:
            answer = await client.request(method, path, json=body)
            assert (path, answer.status_code) == (path, 403)
            assert answer.json()["needs"] == "sign-in"

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "127.0.0.1.evil.example:{port}",
            "localhost",
            "127.0.0.1:1",
            "localhost:{port}.evil.example",
            "",
            "[::1]:{port}@evil",
        ],
    )
    async def test_a_name_that_is_not_ours_is_not_answered(self, home: House, host: str):
        answer = await home.nobody(host=host.format(port=home.web.port)).get("/api/v1/healthz")
        assert answer.status_code == 400

    @pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
    async def test_our_own_names_are_answered(self, home: House, host: str):
        answer = await home.nobody(host=host.format(port=home.web.port)).get("/api/v1/healthz")
        assert answer.status_code == 200

    async def test_signing_in_from_another_sites_page_is_refused(self, home: House):
        client = home.nobody(origin="https://evil.example")
        answer = await client.post("/api/v1/session", json={"person": "ana", "password": PASSWORD})
        assert answer.status_code == 403

    async def test_no_cross_origin_reading_is_ever_allowed(self, home: House):
        client = home.nobody(origin="https://evil.example")
        answer = await client.options("/api/v1/runs", headers={"access-control-request-method": "POST"})
        assert not any(name.startswith("access-control") for name in answer.headers)

    async def test_a_script_with_a_token_needs_neither_origin_nor_csrf(self, home: House):
        client = await home.with_token("ana", {"look"})
        answer = await client.post("/api/v1/orders/preview", json={"selector": {"all": True}})
        assert answer.status_code == 200


async def test_another_switchboard_on_the_same_host_does_not_read_this_ones_cookie(home: House):
    client = await home.browser("ana")
    [name] = dict(client.cookies)
    other = httpx.Cookies({name.replace(str(home.web.port), "1"): client.cookies[name]})
    async with httpx.AsyncClient(base_url=home.url, cookies=other) as stranger:
        assert (await stranger.get("/api/v1/session")).status_code == 401
