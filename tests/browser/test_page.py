"""The main job on the page, in a real browser: sign in, see, decide, stop."""

import asyncio

from helpers.browser import tab
from helpers.eventually import eventually
from helpers.fleet import approval
from helpers.house import PASSWORD, House, house
from helpers.valkey import own_valkey
from playwright.async_api import Browser, expect
from switchboard_rpc.v1 import approval_pb2, fleet_pb2, stop_pb2

from switchboard.domain.digest import canonical, digest
from switchboard.domain.people import Role


class TestSignIn:
    async def test_a_first_link_asks_for_a_password_and_leaves_the_address(self, home: House, open_tab):
        _, link = await home.services.people.invite(await home.ana(), "ben", "Ben", Role.REVIEWER)
        tab = await open_tab(None, path=link.removeprefix(home.url))

        await expect(tab.page.get_by_role("heading", name="Welcome, Ben")).to_be_visible()
        assert "#" not in tab.page.url
        await tab.page.get_by_label("Password for ben").fill("a brand new password")
        await tab.page.get_by_role("button", name="Set password and sign in").click()

        await expect(tab.page.get_by_role("heading", name="Runs")).to_be_visible()
        assert (await home.services.people.by_password("ben", "a brand new password", address="t")).person == "ben"
        await tab.page.reload()
        await expect(tab.page.get_by_role("heading", name="Runs")).to_be_visible()

    async def test_a_used_link_is_told_apart_and_leaves_the_way_by_password(self, home: House, open_tab):
        link = await home.services.people.first_link("ana")
        await home.services.people.use_link(link.partition("#")[2])
        tab = await open_tab(None, path=link.removeprefix(home.url))

        await expect(tab.page.get_by_role("alert")).to_contain_text("used before")
        await tab.page.get_by_label("Name").fill("ana")
        await tab.page.get_by_label("Password").fill("wrong")
        await tab.page.get_by_role("button", name="Sign in").click()
        await expect(tab.page.get_by_role("alert")).to_contain_text("the name or the password is wrong")
        await tab.page.get_by_label("Password").fill(PASSWORD)
        await tab.page.get_by_role("button", name="Sign in").click()
        await expect(tab.page.get_by_role("heading", name="Runs")).to_be_visible()

    async def test_solo_says_so_until_somebody_joins(self, home: House, open_tab):
        tab = await open_tab("ana")
        await expect(tab.page.get_by_text("Solo: one person is all there is")).to_be_visible()
        await home.admit("ben", Role.REVIEWER)
        await expect(tab.page.get_by_text("Solo:")).to_have_count(0)

    async def test_signing_out_forgets_the_page_secret(self, home: House, open_tab):
        tab = await open_tab("ana")
        assert await tab.page.evaluate("localStorage.length") == 1
        await tab.page.get_by_role("button", name="Sign out").click()
        await expect(tab.page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert await tab.page.evaluate("localStorage.length") == 0


class TestRuns:
    async def test_a_run_appears_changes_and_ends_without_a_reload(self, home: House, open_tab):
        tab = await open_tab("ana")
        machine = await home.machine("mill-01")
        await expect(tab.page.get_by_text("Nothing is running")).to_be_visible()
        async with machine.attached() as attached:
            await attached.run("r-1", "RUNNING", repo="example.org/mill", branch="fix/sieve", prompt="Mend the sieve")
            row = tab.page.get_by_role("row", name="example.org/mill")
            await expect(row).to_contain_text("running")
            await expect(row).to_contain_text("fix/sieve")
            await expect(row).to_contain_text("mill-01")
            await expect(row).to_contain_text("live")
            await attached.run("r-1", "IDLE", revision=2, repo="example.org/mill")
            await expect(row).to_contain_text("idle")
            await attached.run("r-1", "FAILED", revision=3, repo="example.org/mill", reason="it fell over")
            await expect(row).to_contain_text("failed")

    async def test_the_filter_narrows_by_word_and_by_field_and_lives_in_the_address(self, home: House, open_tab):
        machine = await home.machine()
        tab = await open_tab("ana")
        async with machine.attached() as attached:
            await attached.run("r-1", repo="example.org/mill", owner="ana")
            await attached.run("r-2", "IDLE", repo="example.org/forge", owner="ben")
            rows = tab.page.locator("tr.one")
            await expect(rows).to_have_count(2)
            await tab.page.keyboard.press("/")
            await tab.page.keyboard.type("repo:forge is:idle")
            await expect(rows).to_have_count(1)
            await expect(rows).to_contain_text("forge")
            await tab.page.reload()
            await expect(rows).to_have_count(1)
            await tab.page.get_by_label("Filter runs").fill("owner:nobody")
            await expect(tab.page.get_by_text("No run fits this filter")).to_be_visible()

    async def test_output_flows_in_and_is_followed_until_the_reader_goes_up(self, home: House, open_tab):
        machine = await home.machine()
        async with machine.attached() as attached, machine.uploading() as uploading:
            await attached.run("r-1")
            await uploading.batch("r-1", 1, [f"line {n}\n" for n in range(1, 200)])
            await eventually(lambda: uploading.watermarks.get("r-1") == 200)
            tab = await open_tab("ana", path="/r/r-1")
            log = tab.page.get_by_role("log")
            await expect(log).to_contain_text("line 199")
            at_end = "innerHeight + scrollY >= document.documentElement.scrollHeight - 80"
            await eventually(lambda: tab.page.evaluate(at_end))
            await uploading.batch("r-1", 200, ["line 200\n"])
            await expect(log).to_contain_text("line 200")
            await eventually(lambda: tab.page.evaluate(at_end))
            await tab.page.mouse.move(500, 400)
            await tab.page.mouse.wheel(0, -2000)
            await expect(tab.page.get_by_role("button", name="↓ Live")).to_be_visible()
            await uploading.batch("r-1", 201, [f"more {n}\n" for n in range(50)])
            await expect(log).to_contain_text("more 49")
            assert not await tab.page.evaluate(at_end)
            await tab.page.get_by_role("button", name="↓ Live").click()
            await eventually(lambda: tab.page.evaluate(at_end))

    async def test_what_it_changed_is_shown_by_file(self, home: House, open_tab):
        machine = await home.machine()
        patch = "--- a/sieve.py\n+++ b/sieve.py\n@@ -1,2 +1,2 @@\n coarse = 1\n-fine = 0\n+fine = 1\n"
        file = {
            "path": "sieve.py",
            "old_path": "",
            "status": "modified",
            "additions": 1,
            "deletions": 1,
            "patch": patch,
        }
        lock = {**file, "path": "poetry.lock", "additions": 900}
        nested = {"path": "lib/", "status": "added", "truncated": True, "note": "a repository of its own: not shown"}
        async with machine.attached() as attached, machine.uploading() as uploading:
            await attached.run("r-1", base_commit="9f2c4e1ab3dd")
            tab = await open_tab("ana", path="/r/r-1")
            await tab.page.get_by_role("tab", name="Changes").click()
            await eventually(lambda: attached.instructions)
            await uploading.answer(attached.instructions[0].id, {"files": [file, lock, nested], "count": 9}, cut=1000)
            await expect(tab.page.locator(".diff").first).to_contain_text("fine = 1")
            await expect(tab.page.locator(".diff").nth(1)).not_to_contain_text("fine = 1")
            await expect(tab.page.locator(".diff").nth(2)).to_contain_text("a repository of its own: not shown")
            await expect(tab.page.get_by_text("6 more files changed than what a machine sends")).to_be_visible()
            await tab.page.locator(".diff summary").nth(1).click()
            await expect(tab.page.locator(".diff").nth(1)).to_contain_text("fine = 1")

    async def test_an_address_that_does_not_exist_is_said(self, home: House, open_tab):
        tab = await open_tab("ana", path="/runs/r-1")
        await expect(tab.page.get_by_text("There is no page /runs/r-1")).to_be_visible()
        await tab.go("/")
        await expect(tab.page.get_by_text("There is no page")).not_to_be_visible()
        await tab.go("/r/%zz")  # cut in the middle of a letter
        await expect(tab.page.get_by_role("main")).to_contain_text("no run")
        await tab.go("/")
        await expect(tab.page.get_by_text("Nothing is running")).to_be_visible()

    async def test_what_a_machine_would_not_do_is_said(self, home: House, open_tab):
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1")
            tab = await open_tab("ana", path="/r/r-1")
            await tab.page.get_by_role("button", name="Interrupt").click()
            await eventually(lambda: attached.instructions)
            said = fleet_pb2.InstructionReport(
                instruction_id=attached.instructions[0].id, state=fleet_pb2.REPORT_STATE_FAILED, reason="no turn runs"
            )
            await attached.told(instruction_report=said)
            await expect(tab.page.get_by_text("The machine did not do it (interrupt): no turn runs")).to_be_visible()

    async def test_a_message_an_interrupt_and_a_stop_reach_the_machine(self, home: House, open_tab):
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1")
            tab = await open_tab("ana", path="/r/r-1")
            await tab.page.get_by_label("Message to the agent").fill("finer, please")
            await tab.page.get_by_role("button", name="Send").click()
            await eventually(lambda: attached.instructions)
            await tab.page.get_by_role("button", name="Interrupt").click()
            await eventually(lambda: len(attached.instructions) == 2)
            await tab.page.get_by_role("button", name="Stop").click()
            dialog = tab.page.get_by_role("dialog")
            await expect(dialog.get_by_role("button", name="Stop the run")).to_be_disabled()
            await dialog.get_by_label("Reason").fill("wrong branch")
            await dialog.get_by_role("button", name="Stop the run").click()
            await expect(tab.page.get_by_role("heading", name="wrong branch")).to_be_visible()
            await eventually(lambda: attached.orders.orders)

        assert attached.instructions[0].message.text == "finer, please"
        assert attached.instructions[1].WhichOneof("kind") == "interrupt"
        assert list(attached.orders.orders[0].selector.runs) == ["r-1"]


class TestApprovals:
    async def test_a_question_comes_is_approved_and_shows_all_three_facts(self, home: House, open_tab):
        await home.admit("ben", Role.REVIEWER)
        machine = await home.machine("mill-01")
        async with machine.attached() as attached:
            tab = await open_tab("ben", path="/approvals")
            await expect(tab.page.get_by_text("Nothing waits for you")).to_be_visible()
            await attached.run("r-1", "WAITING", owner="ana")
            await attached.told(approval=approval("a-1", "r-1", command="make flour", why="The sieve is mended."))
            card = tab.page.get_by_role("article")
            await expect(card.locator("[data-will]")).to_have_text("make flour")
            await expect(card).to_contain_text("The sieve is mended.")
            await expect(card).to_contain_text("/src")
            await card.get_by_role("button", name="Approve").click()
            await expect(card).to_contain_text("Approved by ben")
            await expect(card).to_contain_text("On its way to mill-01")
            await eventually(lambda: attached.instructions)
            decision = attached.instructions[0]
            await attached.told(decision_receipt=_receipt("a-1", decision.id, approval_pb2.APPLICATION_ACCEPTED))
            await expect(card).to_contain_text("In force on mill-01")
            await attached.told(decision_receipt=_receipt("a-1", decision.id, approval_pb2.APPLICATION_APPLIED))
            await expect(card).to_contain_text("The agent has taken it")

        assert decision.decision.verdict == approval_pb2.VERDICT_APPROVE
        assert decision.decision.input_json == ""

    async def test_a_denial_needs_a_reason_which_the_agent_gets(self, home: House, open_tab):
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1", "WAITING", owner="ana")
            await attached.told(approval=approval("a-1", "r-1"))
            tab = await open_tab("ana", path="/a/a-1")
            card = tab.page.get_by_role("article")
            await card.get_by_role("button", name="Deny…").click()
            await expect(card.get_by_role("button", name="Deny")).to_be_disabled()
            await card.get_by_label("Why not?").fill("use the small mill")
            await card.get_by_role("button", name="Deny").click()
            await expect(card).to_contain_text("Denied by ana")
            await eventually(lambda: attached.instructions)

        assert attached.instructions[0].decision.message == "use the small mill"

    async def test_an_edited_input_is_what_is_sent_with_both_digests(self, home: House, open_tab):
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1", "WAITING", owner="ana")
            await attached.told(approval=approval("a-1", "r-1", command="make all"))
            tab = await open_tab("ana", path="/a/a-1")
            card = tab.page.get_by_role("article")
            await card.get_by_role("button", name="Edit the input").click()
            box = card.get_by_label("Edited input")
            await box.fill("{ not json")
            await expect(card.get_by_role("button", name="Approve edited")).to_be_disabled()
            await box.fill('{"command": "make flour"}')
            await card.get_by_role("button", name="Approve edited").click()
            await expect(card).to_contain_text("Approved with an edited input")
            await eventually(lambda: attached.instructions)

        decision = attached.instructions[0].decision
        assert decision.input_json == '{"command":"make flour"}'
        assert decision.edited_digest not in ("", decision.digest)

    async def test_two_people_at_once_the_second_is_told_who_was_first(self, home: House, open_tab):
        for name in ("ben", "kim"):
            await home.admit(name, Role.REVIEWER)
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1", "WAITING", owner="ana")
            await attached.told(approval=approval("a-1", "r-1"))
            tabs = [await open_tab(name, path="/a/a-1") for name in ("ben", "kim")]
            buttons = [tab.page.get_by_role("button", name="Approve") for tab in tabs]
            for button in buttons:
                await expect(button).to_be_enabled()
            # Both presses are on their way before either page has heard of the other.
            await asyncio.gather(*(button.evaluate("button => button.click()") for button in buttons))
            for tab in tabs:
                await expect(tab.page.get_by_role("article")).to_contain_text("Approved by")
            winner = home.services.approvals.get("a-1").decision
            assert winner
            for tab in tabs:
                await expect(tab.page.get_by_role("article")).to_contain_text(f"Approved by {winner.by}")

    async def test_ones_own_run_is_somebody_elses_to_decide(self, home: House, open_tab):
        await home.admit("ben", Role.REVIEWER)
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1", "WAITING", owner="ana")
            await attached.told(approval=approval("a-1", "r-1"))
            tab = await open_tab("ana", path="/a/a-1")
            await expect(tab.page.get_by_text("This is your own run, so somebody else decides.")).to_be_visible()
            await expect(tab.page.get_by_role("button", name="Approve")).to_have_count(0)

    async def test_a_choice_is_answered_with_the_options_that_were_picked(self, home: House, open_tab):
        machine = await home.machine()
        question = {
            "questions": [
                {"question": "Which mill?", "options": [{"label": "small"}, {"label": "large"}], "multiSelect": False},
                {"question": "Which grain?", "options": [{"label": "rye"}, {"label": "oat"}], "multiSelect": True},
            ]
        }
        async with machine.attached() as attached:
            await attached.run("r-1", "WAITING", owner="ana")
            asked = approval("a-1", "r-1")
            asked.kind, asked.tool = approval_pb2.QUESTION_KIND_CHOICE, "AskUserQuestion"
            asked.input_json = canonical(question)
            asked.digest = digest(run="r-1", attempt=1, kind="choice", tool=asked.tool, input=question, cwd="/src")
            await attached.told(approval=asked)
            tab = await open_tab("ana", path="/a/a-1")
            card = tab.page.get_by_role("article")
            await expect(card.get_by_role("button", name="Answer")).to_be_disabled()
            await card.get_by_label("large").check()
            await card.get_by_label("rye").check()
            await card.get_by_label("oat").check()
            await card.get_by_role("button", name="Answer").click()
            await eventually(lambda: attached.instructions)

        assert attached.instructions[0].decision.input_json == (
            '{"answers":{"Which grain?":"rye, oat","Which mill?":"large"}}'
        )

    async def test_a_choice_that_stays_on_its_machine_is_answered_in_words_and_never_with_a_bare_yes(
        self, home: House, open_tab
    ):
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1", "WAITING", owner="ana")
            asked = approval("a-1", "r-1", masked=True)
            asked.kind, asked.tool = approval_pb2.QUESTION_KIND_CHOICE, "AskUserQuestion"
            asked.input_json = '{"questions":"«90 bytes stay on the machine»"}'
            await attached.told(approval=asked)
            tab = await open_tab("ana", path="/a/a-1")
            card = tab.page.get_by_role("article")
            await expect(card.get_by_role("button", name="Answer")).to_be_disabled()
            await expect(card.get_by_role("button", name="Approve")).to_have_count(0)
            await card.get_by_label("Your answer, as JSON").fill('{"answers": {"Which mill?": "small"}}')
            await card.get_by_role("button", name="Answer").click()
            await eventually(lambda: attached.instructions)

        assert attached.instructions[0].decision.input_json == '{"answers":{"Which mill?":"small"}}'

    async def test_a_form_is_filled_in(self, home: House, open_tab):
        machine = await home.machine()
        schema = {
            "type": "object",
            "properties": {"name": {"type": "string"}, "bags": {"type": "integer"}, "size": {"enum": ["s", "l"]}},
        }
        question = {"message": "Whose flour?", "requested_schema": schema}
        async with machine.attached() as attached:
            await attached.run("r-1", "WAITING", owner="ana")
            asked = approval("a-1", "r-1")
            asked.kind, asked.tool = approval_pb2.QUESTION_KIND_ELICITATION, "forms"
            asked.input_json = canonical(question)
            asked.digest = digest(run="r-1", attempt=1, kind="elicitation", tool="forms", input=question, cwd="/src")
            await attached.told(approval=asked)
            tab = await open_tab("ana", path="/a/a-1")
            await tab.page.get_by_label("name").fill("ana")
            await tab.page.get_by_label("bags").fill("3")
            await tab.page.get_by_label("size").select_option("l")
            await tab.page.get_by_role("button", name="Answer").click()
            await eventually(lambda: attached.instructions)

        assert attached.instructions[0].decision.input_json == '{"bags":3,"name":"ana","size":"l"}'

    async def test_without_the_page_secret_the_page_says_what_to_do(self, home: House, open_tab):
        machine = await home.machine()
        async with machine.attached() as attached:
            await attached.run("r-1", "WAITING", owner="ana")
            await attached.told(approval=approval("a-1", "r-1"))
            tab = await open_tab("ana")
            await tab.page.evaluate("localStorage.clear()")
            await tab.page.goto(home.url + "/a/a-1")
            await tab.page.get_by_role("button", name="Approve").click()
            await expect(tab.page.get_by_role("alert")).to_contain_text("sign in again here")
        assert home.services.approvals.get("a-1").state == "open"


class TestStops:
    async def test_preview_order_receipts_and_lift(self, home: House, open_tab):
        mill, forge = await home.machine("mill"), await home.machine("forge")
        tab = await open_tab("ana", path="/stops")
        async with mill.attached() as attached:
            async with forge.attached() as gone:
                await gone.run("r-3", repo="example.org/forge")
            await eventually(lambda: not home.services.presence.attached(forge.id))
            await attached.run("r-1", repo="example.org/mill")
            await attached.run("r-2", repo="example.org/kept")
            await tab.page.get_by_role("button", name="All but a repository").click()
            await tab.page.get_by_label("example.org/kept").check()
            await expect(tab.page.get_by_text("Stops 2 runs on 2 machines")).to_be_visible()
            await expect(tab.page.get_by_text("1 machine is away and will obey at its return: forge")).to_be_visible()
            await tab.page.get_by_label("Reason").fill("incident 42")
            await tab.page.get_by_role("button", name="Stop 2 runs on 2 machines").click()
            await expect(tab.page.get_by_role("heading", name="incident 42")).to_be_visible()
            count = tab.page.locator("[data-done]")
            await expect(count).to_have_text("0")
            await eventually(lambda: attached.orders.orders)
            id = attached.orders.orders[0].id
            await attached.seen({id: ["r-1"]})
            await expect(tab.page.get_by_text("1 ending")).to_be_visible()
            safety = stop_pb2.Safety(id="s-1", head="9f2c4e1ab3dd", files=4, bytes=18231)
            receipt = stop_pb2.Receipt(
                order_id=id, run_id="r-1", attempt=1, outcome=1, proof=1, rung="kill", took_ms=312, processes=7
            )
            receipt.safety.CopyFrom(safety)
            await attached.told(receipt=receipt)
            await expect(count).to_have_text("1")
            await expect(tab.page.get_by_text("contained · kill · 312 ms · 7 processes")).to_be_visible()
            await expect(tab.page.get_by_text("Saved 4 files")).to_be_visible()
            await expect(tab.page.get_by_text("1 unreachable")).to_be_visible()
            await tab.page.get_by_role("button", name="Lift…").click()
            await tab.page.get_by_role("dialog").get_by_label("Reason").fill("over")
            await tab.page.get_by_role("dialog").get_by_role("button", name="Lift").click()
            await expect(tab.page.get_by_text("Lifted by ana")).to_be_visible()


class TestMachines:
    async def test_an_invitation_is_a_line_to_paste_and_revoking_asks_why(self, home: House, open_tab):
        machine = await home.machine("mill")
        tab = await open_tab("ana", path="/machines")
        async with machine.attached() as attached:
            await expect(tab.page.get_by_role("article")).to_contain_text("attached")
            await tab.page.get_by_role("button", name="Invite a machine").click()
            await expect(tab.page.get_by_text("switchboard-daemon join")).to_be_visible()
            await tab.page.get_by_role("button", name="Revoke…").click()
            await tab.page.get_by_role("dialog").get_by_label("Reason").fill("sold")
            await tab.page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
            await expect(tab.page.get_by_role("article")).to_contain_text("revoked")
            await eventually(lambda: attached.ended)


async def test_a_store_that_is_away_is_said_and_the_page_comes_back_by_itself(browser: Browser):
    async with own_valkey() as own, house(own.url, heartbeat_s=0.2) as home, tab(browser, home.url) as page_of:
        machine = await home.machine()
        async with machine.attached() as attached:
            await page_of.sign_in("ana")
            await attached.run("r-1", repo="example.org/mill")
            await expect(page_of.page.locator("tr.one")).to_have_count(1)
            await own.kill()
            await expect(page_of.page.get_by_text("What you see is as it was")).to_contain_text("store")
            await expect(page_of.page.locator("tr.one")).to_have_count(1)
            await page_of.page.reload()
            await expect(page_of.page.get_by_text("This page tries again by itself")).to_be_visible()
            await own.restart()
            await expect(page_of.page.locator("tr.one")).to_have_count(1, timeout=20_000)
            await expect(page_of.page.locator(".link[data-state=live]")).to_be_attached(timeout=20_000)
        page_of.complaints = [said for said in page_of.complaints if "503" not in said]  # the browser's own note on it


async def test_a_cut_line_is_shown_and_what_was_missed_comes_by_itself(home: House, open_tab):
    machine = await home.machine()
    tab = await open_tab("ana")
    async with machine.attached() as attached:
        await attached.run("r-1", repo="example.org/mill")
        await expect(tab.page.locator("tr.one")).to_have_count(1)
        for stream in list(home.server.server_state.connections):
            stream.transport.abort()
        await attached.run("r-2", repo="example.org/forge")
        await expect(tab.page.locator("tr.one")).to_have_count(2)
        await expect(tab.page.locator(".link[data-state=live]")).to_be_attached()
    tab.complaints = [c for c in tab.complaints if "ERR_" not in c]  # the browser's own note on the cut


def _receipt(id: str, decision: str, application: int) -> approval_pb2.DecisionReceipt:
    return approval_pb2.DecisionReceipt(
        approval_id=id,
        decision_id=decision,
        application=application,
        verdict=approval_pb2.VERDICT_APPROVE,
        by="ben",
    )
