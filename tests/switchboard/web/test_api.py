"""What the REST API takes, gives and refuses, over real HTTP."""

import asyncio
import json

import httpx
import pytest
from fastapi import FastAPI
from helpers.eventually import eventually
from helpers.fleet import approval, run
from helpers.house import House
from starlette.requests import Request
from switchboard_rpc.v1 import fleet_pb2, stop_pb2

from switchboard.domain.people import Role
from switchboard.services.words import LONGEST_NOTE, LONGEST_PATH, LONGEST_REASON
from switchboard.web.access import V1
from switchboard.web.edge import Edge
from switchboard.web.errors import add_handlers

START = {"path": "/src/mill", "agent": "claude", "prompt": "mill some flour"}


class TestRuns:
    async def test_a_run_is_ordered_listed_talked_to_and_stopped(self, home: House):
        machine = await home.machine("mill")
        client = await home.browser("ana")
        async with machine.attached() as attached:
            ordered = (await client.post(f"{V1}/runs", json={**START, "request_id": "req-1"})).json()
            again = (await client.post(f"{V1}/runs", json={**START, "request_id": "req-1"})).json()
            id = ordered["run"]["id"]
            await eventually(lambda: attached.instructions)
            await attached.run(id, "RUNNING", repo="example.org/mill", owner="ana")
            row = (await client.get(f"{V1}/runs", params={"repo": "example.org/mill"})).json()["runs"][0]
            sent = await client.post(f"{V1}/runs/{id}/messages", json={"text": "finer, please"})
            cut = await client.post(f"{V1}/runs/{id}/interrupt", json={})
            stop = await client.post(f"{V1}/runs/{id}/stop", json={"reason": "enough flour"})
            told = await client.get(f"{V1}/instructions/{sent.json()['instruction']['id']}")

        assert again["run"]["id"] == id
        assert attached.instructions[0].start.prompt == "mill some flour"
        assert (row["state"], row["machine_name"], row["reachable"], row["active"]) == ("running", "mill", True, True)
        assert row["age_s"] >= 0
        assert (sent.status_code, cut.status_code, stop.status_code) == (202, 202, 201)
        assert stop.json()["order"]["selector"]["runs"] == [id]
        assert stop.json()["order"]["hold"] is False
        assert "finer" not in told.text

    async def test_a_list_of_many_comes_in_pages_without_a_gap_or_a_double(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        async with machine.attached() as attached:
            for n in range(57):
                await attached.send(run=run(f"r-{n:03}", age_ms=n * 1000))
            await eventually(lambda: len(home.services.projection.runs()) == 57)
            seen, after = [], ""
            while after is not None:
                page = (await client.get(f"{V1}/runs", params={"limit": 10, "after": after})).json()
                seen += [row["id"] for row in page["runs"]]
                after = page["next"]

        assert sorted(seen) == [f"r-{n:03}" for n in range(57)]

    async def test_no_machine_and_a_machine_that_is_away_are_each_one_sentence(self, home: House):
        client = await home.browser("ana")
        nothing = await client.post(f"{V1}/runs", json=START)
        await home.machine("mill")
        away = await client.post(f"{V1}/runs", json=START)

        assert nothing.status_code == 404
        assert "switchboard machines invite" in nothing.json()["error"]
        assert away.status_code == 503
        assert "mill is away" in away.json()["error"]

    async def test_a_prompt_of_one_megabyte_is_taken_and_more_is_a_clear_no(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        async with machine.attached() as attached:
            kind = {"content-type": "application/json"}
            for prompt in ("é" * (512 * 1024), "я" * (512 * 1024), "\x01" * (1024 * 1024 - 1) + "x"):
                spelt = json.dumps({**START, "prompt": prompt})  # with escapes of six characters
                whole = await client.post(f"{V1}/runs", content=spelt, headers=kind)
                assert whole.status_code == 202, whole.text
                await eventually(lambda: attached.instructions and attached.instructions[-1].start.prompt == prompt)  # noqa: B023  awaited here
            more = await client.post(f"{V1}/runs", json={**START, "prompt": "x" * (1024 * 1024 + 1)})
            flood = await client.post(f"{V1}/runs", json={**START, "prompt": "x" * (9 * 1024 * 1024)})
            other = await client.post(f"{V1}/orders", json={"reason": "x" * (3 * 1024 * 1024)})
            await attached.run("r-ended", "SUCCEEDED", session_id="s-1")
            resumed = await client.post(f"{V1}/runs/r-ended/resume", json={"text": "я" * (512 * 1024 + 1)})

        assert (resumed.status_code, other.status_code) == (400, 413)
        assert "1 MiB" in resumed.json()["error"]
        assert (more.status_code, flood.status_code) == (400, 413)
        assert "1 MiB" in more.json()["error"]
        assert "1 MiB" in flood.json()["error"]

    async def test_what_the_services_take_the_edge_takes_and_no_byte_more(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        async with machine.attached() as attached:
            await attached.run("r-1", "WAITING")
            await attached.told(approval=approval("a-1", "r-1"))
            digest = home.services.approvals.get("a-1").digest
            deny = {"verdict": "deny", "digest": digest}
            bodies = {
                f"{V1}/approvals/a-1/votes": (LONGEST_NOTE, lambda text: {**deny, "note": text}),
                f"{V1}/orders": (LONGEST_REASON, lambda text: {"selector": {"all": True}, "reason": text}),
                f"{V1}/runs": (LONGEST_PATH, lambda text: {**START, "path": text}),
            }
            for route, (longest, body) in bodies.items():
                more = await client.post(route, json=body("é" * (longest // 2) + "x"))
                assert more.status_code == 400
                assert f"is {longest + 1:,} bytes long; at most {longest:,} are taken" in more.json()["error"]
                most = await client.post(route, json=body("é" * (longest // 2)))
                assert most.status_code != 400, most.text

    async def test_the_diff_is_asked_of_the_machine(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        diff = {"files": [{"path": "a.py", "patch": "@@ -1 +1 @@\n-a\n+b\n"}], "count": 7}
        async with machine.attached() as attached, machine.uploading() as uploading:
            await attached.run("r-1")
            asking = asyncio.create_task(client.get(f"{V1}/runs/r-1/diff"))
            await eventually(lambda: attached.instructions)
            await uploading.answer(attached.instructions[0].id, diff)
            answer = await asking

        assert answer.json()["files"][0]["patch"] == diff["files"][0]["patch"]
        assert (set(answer.json()), answer.json()["count"]) == ({"files", "count"}, 7)
        assert attached.instructions[0].query.diff.run_id == "r-1"

    @pytest.mark.parametrize("said", [[], "x", {"files": "x"}, {"files": [{"path": 1}]}, {"files": [None]}, {}])
    async def test_an_answer_that_is_none_is_a_sentence(self, home: House, said: object):
        machine = await home.machine()
        client = await home.browser("ana")
        async with machine.attached() as attached, machine.uploading() as uploading:
            await attached.run("r-1")
            asking = asyncio.create_task(client.get(f"{V1}/runs/r-1/diff"))
            await eventually(lambda: attached.instructions)
            await uploading.answer(attached.instructions[0].id, said)
            answer = await asking

        assert answer.status_code == 503
        assert "cannot be read" in answer.json()["error"]

    async def test_what_left_the_store_comes_from_the_machines_spool(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        held = [fleet_pb2.SpoolRange(run_id="r-1", low=1, next=4)]
        async with machine.attached(spool=held) as attached, machine.uploading() as uploading:
            await attached.run("r-1")
            await home.store.output.skip("r-1", 3)
            await uploading.batch("r-1", 3, ["three"])
            await eventually(lambda: uploading.watermarks.get("r-1") == 4)
            asking = asyncio.create_task(client.get(f"{V1}/runs/r-1/output"))
            await eventually(lambda: attached.instructions)
            older = [
                {"seq": n, "kind": "message", "text": text}
                for n, text in ((2, "two"), (1, "one"), (1, "one"), (9, "no"))
            ]
            await uploading.answer(attached.instructions[0].id, {"events": older})
            page = (await asking).json()

            rest = (await client.get(f"{V1}/runs/r-1/output", params={"first": page["next"]})).json()

        assert [event["text"] for event in page["events"]] == ["one", "two"]
        assert (page["next"], page["low"], page["end"]) == (3, 3, 4)
        assert [event["text"] for event in rest["events"]] == ["three"]
        assert rest["next"] == rest["end"] == 4

    async def test_a_part_of_the_spool_is_a_shorter_page_and_never_a_hole(self, home: House):
        machine = await home.machine()
        client = await home.browser("ana")
        held = [fleet_pb2.SpoolRange(run_id="r-1", low=1, next=7)]
        async with machine.attached(spool=held) as attached, machine.uploading() as uploading:
            await attached.run("r-1")
            await home.store.output.skip("r-1", 6)
            await uploading.batch("r-1", 6, ["six"])
            await eventually(lambda: uploading.watermarks.get("r-1") == 7)
            pages, first = [], 1
            for said in ([(1, "one"), (2, "two"), (4, "four")], [(4, "four"), (5, "five")], None):
                asking = asyncio.create_task(client.get(f"{V1}/runs/r-1/output", params={"first": first}))
                if said is not None:
                    await eventually(lambda: len(attached.instructions) > len(pages))
                    older = [{"seq": seq, "kind": "message", "text": text} for seq, text in said]
                    await uploading.answer(attached.instructions[-1].id, {"events": older})
                pages.append((await asking).json())
                first = pages[-1]["next"]

        assert [[(event["seq"], event["kind"]) for event in page["events"]] for page in pages] == [
            [(1, "message"), (2, "message")],
            [(3, "gap"), (4, "message"), (5, "message")],
            [(6, "message")],
        ]
        assert attached.instructions[1].query.output.first == 3


class TestApprovals:
    async def test_the_first_answer_counts_and_the_late_one_is_told_who_was_first(self, home: House):
        for name in ("ben", "kim"):
            await home.admit(name, Role.REVIEWER)
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1", "WAITING", owner="ana")
            await attached.told(approval=approval("a-1", "r-1"))
            asked = (await (await home.browser("ben")).get(f"{V1}/approvals", params={"state": "open"})).json()[
                "approvals"
            ][0]
            vote = {"verdict": "approve", "digest": asked["digest"]}
            by_ben = await (await home.browser("ben")).post(f"{V1}/approvals/a-1/votes", json=vote)
            by_kim = await home.with_password("kim").post(
                f"{V1}/approvals/a-1/votes", json={**vote, "verdict": "deny", "note": "no"}
            )
            by_ana = await (await home.browser("ana")).post(f"{V1}/approvals/a-1/votes", json=vote)
            by_token = await (await home.with_token("ana", {"look"})).post(f"{V1}/approvals/a-1/votes", json=vote)
            await eventually(lambda: attached.instructions)

        assert (by_ben.status_code, by_ben.json()["state"], by_ben.json()["delivery"]) == (200, "approved", "sent")
        assert by_kim.status_code == 409
        assert "already approved by ben" in by_kim.json()["error"]
        assert by_ana.status_code == 403
        assert "somebody else decides" in by_ana.json()["error"]
        assert by_token.status_code == 403
        assert attached.instructions[0].decision.by == "ben"

    @pytest.mark.parametrize(
        "vote",
        [
            {"verdict": "maybe"},
            {"verdict": "approve", "digest": ""},
            {"verdict": "deny", "note": "  "},
            {"verdict": "approve", "input": [1]},
            {"verdict": "approve", "surprise": 1},
            {"verdict": "approve", "vote_id": "../x"},
        ],
    )
    async def test_a_vote_that_is_none_is_refused_and_changes_nothing(self, home: House, vote: dict[str, object]):
        await home.admit("ben", Role.REVIEWER)
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1", owner="ana")
            await attached.told(approval=approval("a-1", "r-1"))
            digest = home.services.approvals.get("a-1").digest
            client = await home.browser("ben")
            answer = await client.post(f"{V1}/approvals/a-1/votes", json={"digest": digest, **vote})

        assert answer.status_code == 400
        assert home.services.approvals.get("a-1").state == "open"

    async def test_another_digest_than_the_present_one_is_a_conflict(self, home: House):
        await home.admit("ben", Role.REVIEWER)
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1", owner="ana")
            await attached.told(approval=approval("a-1", "r-1"))
            client = await home.browser("ben")
            answer = await client.post(
                f"{V1}/approvals/a-1/votes", json={"verdict": "approve", "digest": "sha256:" + "0" * 64}
            )
        assert answer.status_code == 409
        assert "read it again" in answer.json()["error"]


class TestStops:
    async def test_preview_order_receipts_and_lift(self, home: House):
        machine = await home.machine("mill")
        client = await home.browser("ana")
        async with machine.attached() as attached:
            await attached.run("r-1")
            await attached.run("r-2", repo="example.org/other")
            selector = {"except_repos": ["example.org/other"]}
            preview = (await client.post(f"{V1}/orders/preview", json={"selector": selector})).json()
            order = {"selector": selector, "reason": "incident", "request_id": "req-1"}
            issued = (await client.post(f"{V1}/orders", json=order)).json()
            again = (await client.post(f"{V1}/orders", json=order)).json()
            id = issued["order"]["id"]
            await eventually(lambda: attached.orders.orders)
            await attached.seen({id: ["r-1"]})
            receipt = stop_pb2.Receipt(
                order_id=id, run_id="r-1", attempt=1, outcome=1, proof=1, rung="kill", took_ms=7, processes=3
            )
            await attached.told(receipt=receipt)
            status = (await client.get(f"{V1}/orders/{id}")).json()
            lifted = await client.post(f"{V1}/orders/{id}/lift", json={"reason": "over"})
            twice = await client.post(f"{V1}/orders/{id}/lift", json={"reason": "over"})

        assert (preview["count"], preview["machines"], preview["machines_away"]) == (1, 1, [])
        assert again["order"]["id"] == id
        assert status["counts"] == {"ended": 1}
        assert status["rows"][0]["receipt"]["proof"] == "contained"
        assert status["machines"] == {"total": 1, "seen": 1, "away": []}
        assert lifted.json()["order"]["lifted"] is True
        assert twice.status_code == 409

    async def test_a_token_bound_to_a_machine_stops_there_only_and_says_so(self, home: House):
        mill, forge = await home.machine("mill"), await home.machine("forge")
        async with mill.attached() as one, forge.attached() as other:
            await one.run("r-1")
            await other.run("r-2")
            client = await home.with_token("ana", {"look", "stop", "start"}, machine=mill.id)
            issued = (await client.post(f"{V1}/orders", json={"selector": {"all": True}, "reason": "x"})).json()
            foreign = await client.post(f"{V1}/runs/r-2/stop", json={"reason": "x"})
            lift = await client.post(f"{V1}/orders/{issued['order']['id']}/lift", json={"reason": "x"})

        assert issued["narrowed"] is True
        assert issued["order"]["selector"]["machines"] == [mill.id]
        assert foreign.status_code == 403
        assert lift.status_code == 403

    @pytest.mark.parametrize("selector", [{}, {"except_repo": ["x"]}, {"all": "yes please"}, {"repos": [1]}])
    async def test_a_selector_that_is_misspelt_or_empty_stops_nothing(self, home: House, selector: dict[str, object]):
        client = await home.browser("ana")
        answer = await client.post(f"{V1}/orders", json={"selector": selector, "reason": "x"})
        assert answer.status_code == 400
        assert home.services.projection.orders() == []

    async def test_names_of_files_are_for_those_who_may_read_the_run_and_gone_after_a_purge(self, home: House):
        await home.admit("dev", Role.DEVELOPER)
        machine = await home.machine()
        client, other = await home.browser("ana"), await home.browser("dev")
        async with machine.attached() as attached:
            await attached.run("r-1", owner="ana")
            issued = await client.post(f"{V1}/orders", json={"selector": {"all": True}, "reason": "incident 7"})
            path = f"{V1}/orders/{issued.json()['order']['id']}"
            await eventually(lambda: attached.orders.orders)
            await attached.run("r-1", "STOPPED", revision=2, owner="ana")
            saved = stop_pb2.Safety(id="s-1", files=2, not_saved=["merger.xls: over 50 MiB"], left_out=1)
            receipt = stop_pb2.Receipt(
                order_id=attached.orders.orders[0].id,
                run_id="r-1",
                attempt=1,
                outcome=stop_pb2.OUTCOME_ENDED,
                safety=saved,
            )
            await attached.told(receipt=receipt)
            seen = [(await who.get(path)).json()["rows"][0]["receipt"]["safety"] for who in (client, other)]
            purged = await client.request("DELETE", f"{V1}/runs/r-1", json={"reason": "it was confidential"})
            await attached.told(receipt=receipt)  # as it was, from a machine that has not purged it yet
            after = (await client.get(path)).json()["rows"][0]["receipt"]["safety"]

        assert purged.is_success, purged.text
        assert [safety["not_saved"] for safety in (*seen, after)] == [["merger.xls: over 50 MiB"], [], []]
        assert [safety["left_out"] for safety in (*seen, after)] == [1, 1, 1]


class TestMachines:
    async def test_an_invitation_is_one_line_to_paste_and_a_revoked_machine_is_out(self, home: House):
        client = await home.browser("ana")
        invited = (await client.post(f"{V1}/machines/invites", json={"name": "mill"})).json()
        machine = await home.machine("mill")
        async with machine.attached() as attached:
            revoked = await client.post(f"{V1}/machines/{machine.id}/revoke", json={"reason": "sold"})
            await eventually(lambda: attached.ended)

        assert invited["command"].startswith("switchboard-daemon join ")
        assert invited["token"] in invited["command"]
        assert revoked.json()["machine"]["standing"] == "revoked"

    async def test_safety_copies_are_for_the_machines_owner_and_incident_leads(self, home: House):
        await home.admit("kim", Role.REVIEWER)
        machine = await home.machine()
        async with machine.attached() as attached, machine.uploading() as uploading:
            refused = await (await home.browser("kim")).get(f"{V1}/machines/{machine.id}/safety")
            client = await home.browser("ana")
            asking = asyncio.create_task(client.get(f"{V1}/machines/{machine.id}/safety"))
            await eventually(lambda: attached.instructions)
            await uploading.answer(attached.instructions[0].id, {"copies": []})
            assert (await asking).json() == {"copies": []}

        assert refused.status_code == 403


class TestBadInput:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"x"',
            b"\xff\xfe",
            b'{"path": "\\ud800", "prompt": "x"}',
            b'{"path":' * 20_000,
            b"[" * 100_000,
        ],
        ids=lambda c: repr(c[:16]),
    )
    async def test_a_body_that_is_none_gets_a_sentence_and_no_trace(self, home: House, content: bytes):
        client = await home.browser("ana")
        answer = await client.post(f"{V1}/runs", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert 0 < len(answer.json()["error"]) < 500
        assert "Traceback" not in answer.text

    async def test_a_body_of_another_kind_than_json_is_not_read_as_json(self, home: House):
        client = await home.browser("ana")
        body = json.dumps({"selector": {"all": True}, "reason": "x"})
        answer = await client.post(f"{V1}/orders", content=body, headers={"content-type": "text/plain"})
        assert answer.status_code == 400

    async def test_a_number_that_json_does_not_have_is_refused(self, home: House):
        client = await home.browser("ana")
        body = '{"verdict": "approve", "digest": "d", "input": {"n": NaN}}'
        answer = await client.post(
            f"{V1}/approvals/x/votes", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400

    @pytest.mark.parametrize(
        "path", ["runs/../../etc", "runs/%2e%2e%2fetc", "runs/%00", "runs/<script>", "runs/" + "x" * 5000]
    )
    async def test_a_name_that_nobody_gave_is_not_found(self, home: House, path: str):
        client = await home.browser("ana")
        answer = await client.get(f"{V1}/{path}")
        assert answer.status_code in {400, 404}
        assert answer.json()["error"]

    @pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=99999999", "state=flying"])
    async def test_a_query_that_makes_no_sense_is_a_sentence(self, home: House, query: str):
        client = await home.browser("ana")
        assert (await client.get(f"{V1}/runs?{query}")).status_code == 400

    async def test_a_body_without_a_length_is_cut_off_at_the_limit(self, home: House):
        async def flood():
            for _ in range(160):
                yield b"x" * 65536

        client = await home.browser("ana")
        answer = await client.post(f"{V1}/runs", content=flood(), headers={"content-type": "application/json"})
        assert answer.status_code == 413


class TestAnswers:
    async def test_a_page_that_does_not_exist_is_said_by_the_page_and_to_programs_in_json(self, home: House):
        browsing, program = home.nobody(accept="text/html,*/*;q=0.8"), home.nobody()
        there = await browsing.get("/")
        for path in ("/runs/r-1", "/nowhere", "/r/r-1/more"):
            page, told = await browsing.get(path), await program.get(path)
            assert (page.status_code, page.text) == (404, there.text)
            assert page.headers["content-security-policy"] == there.headers["content-security-policy"]
            assert (told.status_code, told.json()["error"]) == (404, f"there is no GET {path} here")
        under_api = await browsing.get(f"{V1}/nowhere")
        assert (under_api.status_code, under_api.json()["error"]) == (404, f"there is no GET {V1}/nowhere here")

    async def test_every_answer_carries_the_headers_that_keep_a_page_safe(self, home: House):
        client = await home.browser("ana")
        for path in ("/", "/panel/app.js", f"{V1}/runs", f"{V1}/nothing", "/panel/../../settings.py"):
            answer = await client.get(path)
            headers = answer.headers
            assert "script-src 'self'" in headers["content-security-policy"], path
            assert "require-trusted-types-for 'script'" in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["x-request-id"]
            if path.startswith("/api/"):
                assert headers["cache-control"] == "no-store"

    async def test_the_pages_files_are_those_in_its_folder_and_no_other(self, home: House):
        client = home.nobody()
        assert (await client.get("/panel/vendor/preact.js")).status_code == 200
        for path in (
            "/panel/../api.py",
            "/panel/%2e%2e/api.py",
            "/panel//etc/passwd",
            "/panel/vendor/VENDOR.toml",
            "/panel/",
        ):
            assert (await client.get(path)).status_code == 404

    async def test_an_unchanged_file_is_not_sent_again(self, home: House):
        client = home.nobody()
        first = await client.get("/panel/app.js")
        again = await client.get("/panel/app.js", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")

    async def test_openapi_names_every_route_of_the_api(self, home: House):
        paths = (await home.nobody().get(f"{V1}/openapi.json")).json()["paths"]
        assert f"{V1}/runs" in paths
        assert "post" in paths[f"{V1}/approvals/{{id}}/votes"]

    async def test_a_bug_says_nothing_but_where_to_look(self, home: House):
        api = FastAPI()
        add_handlers(api)

        @api.get("/api/v1/bug")
        async def bug(request: Request) -> None:
            raise ValueError("the password is swordfish")

        transport = httpx.ASGITransport(Edge(api, home.web))
        async with httpx.AsyncClient(transport=transport, base_url=home.url) as client:
            answer = await client.get("/api/v1/bug", headers={"x-request-id": "request-0001"})

        assert answer.status_code == 500
        assert "swordfish" not in answer.text
        assert answer.json()["request"] == "request-0001"
        assert answer.headers["x-content-type-options"] == "nosniff"
