"""Every route, asked by everybody, held against the table. A route that nobody thought about fails here."""

import re
from collections.abc import Mapping
from datetime import timedelta

import httpx
import pytest
from helpers.fleet import approval
from helpers.house import House

from switchboard.domain.people import ROLE_PERMITS, Permission, Role
from switchboard.web.access import TABLE, V1
from switchboard.web.api import check, routes

ROLES = (Role.VIEWER, Role.DEVELOPER, Role.REVIEWER, Role.INCIDENT_LEAD, Role.ADMIN)
TOKEN_PERMITS = frozenset({Permission.LOOK, Permission.START, Permission.STOP})

# Admitted at the gate, refused by the service, which looks at more than the permission.
LOOKS_FURTHER = {
    ("POST", f"{V1}/people/{{id}}/link"): "somebody else's link needs the permission for people",
    ("DELETE", f"{V1}/tokens/{{id}}"): "a token revokes no token",
    ("GET", f"{V1}/machines/{{id}}/safety"): "only for the machine's owner and incident leads",
}


async def status_of(client: httpx.AsyncClient, method: str, path: str) -> int:
    """Ask with a body that no route takes: who is admitted gets 400 or 404, and nothing ever happens."""
    address = re.sub(r"\{[^}]*\}", "nothing-of-that-name", path)
    body: dict[str, str] = {} if method == "GET" else {"content": "no JSON", "content-type": "application/json"}
    content = body.pop("content", None)
    headers: Mapping[str, str] = body
    async with client.stream(method, address, content=content, headers=headers) as answer:
        return answer.status_code


def ordered() -> list[tuple[str, str]]:
    """Signing out comes last: the same client asks everything."""
    return sorted(TABLE, key=lambda key: (key == ("DELETE", f"{V1}/session"), key))


class TestTable:
    def test_every_route_has_a_rule_and_every_rule_a_route(self, home: House):
        assert set(routes(home.api)) == set(TABLE)

    def test_a_route_without_a_rule_keeps_the_server_from_starting(self, home: House):
        async def forgotten() -> None: ...

        home.api.add_api_route("/api/v1/forgotten", forgotten)
        with pytest.raises(RuntimeError, match="forgotten"):
            check(home.api)

    def test_what_needs_no_sign_in_says_why(self):
        for key, rule in TABLE.items():
            if rule.public:
                assert len(rule.public) > 10, key
                assert rule.permission is None, key

    def test_only_a_look_and_the_way_out_are_open_to_the_cookie_alone(self):
        open_to_it = {key: rule for key, rule in TABLE.items() if rule.cookie_alone}
        assert set(open_to_it) == {("DELETE", f"{V1}/session"), ("POST", f"{V1}/orders/preview")}
        assert all(len(rule.cookie_alone) > 10 for rule in open_to_it.values())

    def test_looking_never_needs_more_than_looking_and_nothing_else_is_a_get(self):
        allowed = {None, Permission.LOOK, Permission.AUDIT}
        assert all(rule.permission in allowed for (method, _), rule in TABLE.items() if method == "GET")


async def test_nobody_gets_nothing_but_what_is_public(home: House):
    client = home.nobody()
    for method, path in ordered():
        status = await status_of(client, method, path)
        if TABLE[method, path].public:
            assert status != 401 or path.endswith("/session"), (method, path)
        else:
            assert status == 401, (method, path)


@pytest.mark.parametrize("role", ROLES)
async def test_each_role_gets_what_the_table_says(home: House, role: Role):
    await home.admit("kim", role)
    client = await home.browser("kim")
    for method, path in ordered():
        rule = TABLE[method, path]
        status = await status_of(client, method, path)
        if rule.public or rule.permission is None or rule.permission in ROLE_PERMITS[role]:
            assert status != 401, (method, path)
            assert status != 403 or (method, path) in LOOKS_FURTHER, (method, path)
        else:
            assert status == 403, (method, path)


async def test_a_cookie_without_the_page_changes_nothing(home: House):
    """A server on another port of this host receives the cookie, asks GET /session for the rest, and sends any Origin."""
    client = await home.browser("ana")
    del client.headers["x-page-secret"]
    assert (await client.get(f"{V1}/session")).json()["csrf"] == client.headers["x-csrf-token"]
    for method, path in ordered():
        rule = TABLE[method, path]
        status = await status_of(client, method, path)
        if method == "GET" or rule.public or rule.cookie_alone:
            assert status not in {401, 403} or (method, path) in LOOKS_FURTHER, (method, path, status)
        else:
            assert status == 403, (method, path, status)


async def test_a_token_gets_what_it_holds_and_never_what_no_token_may(home: House):
    client = await home.with_token("ana", set(TOKEN_PERMITS), machine="m-1")
    for method, path in ordered():
        rule = TABLE[method, path]
        status = await status_of(client, method, path)
        if rule.public or rule.permission is None or rule.permission in TOKEN_PERMITS:
            assert status not in {401, 403} or (method, path) in LOOKS_FURTHER, (method, path, status)
        else:
            assert status == 403, (method, path)


async def test_an_expired_token_and_a_person_who_was_shut_out_are_nobody(home: House):
    await home.admit("kim", Role.ADMIN)
    token = await home.with_token("ana", {Permission.LOOK}, days=1)
    kims = [await home.browser("kim"), await home.with_token("kim", {Permission.LOOK}), home.with_password("kim")]
    await home.services.people.disable(await home.ana(), "kim")
    for method, path in ordered():
        if TABLE[method, path].public:
            continue
        for client in kims[:2]:
            assert await status_of(client, method, path) == 401, (method, path)
    assert await status_of(kims[2], "GET", f"{V1}/runs") == 401
    home.clock.forward(timedelta(days=1, seconds=1))
    for method, path in ordered():
        if not TABLE[method, path].public:
            assert await status_of(token, method, path) == 401, (method, path)


class TestContent:
    """A run's content is its owner's and those' who review or audit; the list itself is everybody's who may look."""

    async def test_who_may_read_what_a_run_was_told_and_printed(self, home: House):
        for name, role in [
            ("ben", Role.DEVELOPER),
            ("kim", Role.DEVELOPER),
            ("rae", Role.REVIEWER),
            ("vic", Role.VIEWER),
        ]:
            await home.admit(name, role)
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1", "WAITING", owner="ben", prompt="the secret plan")
            await attached.told(approval=approval("a-1", "r-1", command="make secret"))
            readers = {}
            for name in ("ben", "kim", "rae", "vic", "ana"):
                client = await home.browser(name)
                row = (await client.get(f"{V1}/runs/r-1")).json()
                asked = (await client.get(f"{V1}/approvals/a-1")).json()
                output = await client.get(f"{V1}/runs/r-1/output")
                stream = (
                    await status_of(client, "GET", f"{V1}/runs/r-1/output/stream") if name in ("kim", "vic") else 200
                )
                readers[name] = {
                    row["prompt"] == "the secret plan",
                    "make secret" in asked["input_json"],
                    "make secret" in str(asked),
                    output.status_code == 200,
                    stream == 200,
                }
            token = await home.with_token("ben", {"look"}, machine="m-another")
            assert (await token.get(f"{V1}/runs/r-1/output")).status_code == 403

        assert readers == {"ben": {True}, "rae": {True}, "ana": {True}, "kim": {False}, "vic": {False}}

    async def test_reading_is_on_record_once_for_each_person_run_and_hour(self, home: House):
        await home.admit("rae", Role.REVIEWER)
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1", owner="ana")
            client = await home.browser("rae")
            for _ in range(3):
                await client.get(f"{V1}/runs/r-1/output")
            admin = await home.browser("ana")
            entries = (await admin.get(f"{V1}/audit")).json()["entries"]
            read = [(e["by"], e["subject"]) for e in entries if e["action"] == "run.read"]
            home.clock.forward(timedelta(hours=1))
            await client.get(f"{V1}/runs/r-1/output")
            entries = (await admin.get(f"{V1}/audit")).json()["entries"]

        assert read == [("rae", "r-1")]
        assert sum(e["action"] == "run.read" for e in entries) == 2

    async def test_reading_what_a_question_asks_is_on_record_and_seeing_that_it_waits_is_not(self, home: House):
        for id, role in (("rae", Role.REVIEWER), ("vic", Role.VIEWER)):
            await home.admit(id, role)
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1", owner="ana")
            await attached.told(approval=approval("a-1", "r-1"))
            rae, vic, admin = [await home.browser(id) for id in ("rae", "vic", "ana")]
            await rae.get(f"{V1}/approvals")
            assert not (await vic.get(f"{V1}/approvals/a-1")).json()["readable"]

            async def read() -> list[tuple[str, str]]:
                entries = (await admin.get(f"{V1}/audit")).json()["entries"]
                return [(e["by"], e["subject"]) for e in entries if e["action"] == "run.read"]

            assert await read() == []
            for _ in range(3):
                assert (await rae.get(f"{V1}/approvals/a-1")).json()["readable"]
            assert await read() == [("rae", "r-1")]

    async def test_nothing_of_a_certificate_or_a_password_is_ever_shown(self, home: House):
        await home.machine()
        client = await home.browser("ana")
        shown = ""
        for path in ("machines", "people", "tokens", "session", "audit", "runs", "orders", "approvals"):
            shown += (await client.get(f"{V1}/{path}")).text
        for secret in ("BEGIN CERTIFICATE", "argon2", "key_fingerprint", "password_hash", "page_hash"):
            assert secret not in shown
