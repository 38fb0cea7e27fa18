"""Strangers' text on every screen, and strangers' pages beside ours: nothing runs, nothing leaks, nothing is hidden."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from helpers.crowd import SCREENS, crowd
from helpers.eventually import eventually
from helpers.fleet import approval
from helpers.house import House
from playwright.async_api import expect
from switchboard_rpc.v1 import approval_pb2

PAYLOADS = (
    "<img src=x onerror=window.ran=1>",
    "</script><script>window.ran=1</script>",
    '"><svg onload=window.ran=1>',
    "javascript:window.ran=1//",
    "${window.ran=1}{{window.ran=1}}<%window.ran=1%>",
    "<iframe srcdoc='<script>parent.ran=1</script>'></iframe>",
    "<a href=javascript:window.ran=1>x</a><style>*{display:none}</style>",
    "]]><!--\u202e\u2066\u200b\x1b]8;;http://evil.example\x07\x1b[2J\x9b31m",
)


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_hostile_text_in_every_field_runs_nothing_on_any_screen(home: House, open_tab, payload: str):
    async with crowd(home, payload) as (_, stop):
        tab = await open_tab("ana")
        for path in (*SCREENS, stop):
            await tab.go(path)
            await expect(tab.page.locator("h1")).to_have_count(1)
            await expect(tab.page.locator(".skeleton")).to_have_count(0)
            await tab.page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
            assert await tab.page.evaluate("window.ran") is None
            assert (
                await tab.page.locator(
                    "script:not([src^='/panel/']), iframe, #app style, #app a[href^=javascript]"
                ).count()
                == 0
            )
    # On the way out the tab fails the test for anything on its console, and any request to elsewhere.


async def test_the_browser_itself_would_have_stopped_it(home: House, open_tab):
    """The second wall: even a mistake of ours that makes markup of a string is refused, and is seen by these tests."""
    tab = await open_tab("ana")
    stopped = await tab.page.evaluate(
        "() => { try { document.body.innerHTML = '<img src=x onerror=window.ran=1>'; return false; } catch { return true; } }"
    )
    assert stopped
    await tab.page.evaluate(
        "() => { const a = document.createElement('a'); a.href = 'javascript:window.ran=1'; document.body.append(a); a.click(); }"
    )
    await eventually(lambda: any("TrustedHTML" in said for said in tab.complaints))
    await eventually(lambda: any("script-src" in said for said in tab.complaints))
    assert await tab.page.evaluate("window.ran") is None
    tab.complaints.clear()


async def test_what_cannot_be_seen_is_shown_where_somebody_decides(home: House, open_tab):
    machine = await home.machine()
    command = "rm -rf ./build\u202e # txt.\u2066\u200b\u00ad\u3164\u00a0\x1b[8mhidden\x1b[0m\rmake\u2028"
    async with machine.attached() as attached:
        await attached.run("r-1", "WAITING")
        await attached.told(approval=approval("a-1", "r-1", command=command + " pаypal"))  # a Cyrillic а
        tab = await open_tab("ana", path="/a/a-1")
        shown = await tab.page.locator("[data-will]").inner_text()

        for hidden in ("U+202E", "U+2066", "U+200B", "U+00AD", "U+3164", "U+00A0", "U+001B", "U+000D", "U+2028"):
            assert hidden in shown
        assert "hidden" in shown
        await expect(tab.page.get_by_text("Letters beyond ASCII")).to_contain_text("U+0430")


STRANGE = (
    ("tool", "[1,2]"),
    ("tool", '"x"'),
    ("tool", "5"),
    ("tool", "null"),
    ("tool", "{"),
    ("tool", '{"command":{"a":1},"x":null}'),
    ("choice", '{"questions":"x"}'),
    ("choice", '{"questions":[null,{"question":{"a":1}},{"question":"q","options":"x"}]}'),
    ("choice", '{"questions":[{"question":"q","options":[null,{"label":{}},{"label":1,"description":{}}]}]}'),
    ("choice", '{"questions":[{"question":"__proto__","options":[{"label":"constructor"}]}]}'),
    ("plan", '{"plan":5}'),
    ("elicitation", '{"requested_schema":5}'),
    ("elicitation", '{"requested_schema":{"properties":[1,null]}}'),
    ("elicitation", '{"requested_schema":{"properties":{"a":null,"b":5,"c":{"enum":[{},null]},"d":{"title":{}}}}}'),
    ("unknown", '{"__proto__":{"x":1},"constructor":1}'),
)


async def test_a_question_of_any_shape_is_drawn_and_can_be_denied(home: House, open_tab):
    machine = await home.machine()
    async with machine.attached() as attached:
        await attached.run("r-1", "WAITING", owner="ana")
        for n, (kind, text) in enumerate(STRANGE):
            made = approval(f"a-{n}", "r-1", input_json=text)
            made.kind = approval_pb2.QuestionKind.Value(f"QUESTION_KIND_{kind.upper()}")
            await attached.told(approval=made)
        tab = await open_tab("ana")
        for n, _ in enumerate(STRANGE):
            await tab.go(f"/a/a-{n}")
            card = tab.page.locator(f"[data-approval=a-{n}]")
            await card.get_by_role("button", name="Deny…").click()
            await card.get_by_label("Why not?").fill("no")
            await card.get_by_role("button", name="Deny").click()
            await expect(card).to_contain_text("Denied by ana")


@asynccontextmanager
async def other_server() -> AsyncIterator[str]:
    """A page on another port of the same host: it gets our cookie along, since cookies ignore ports."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        page = b"<!doctype html><title>evil</title>"
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(page)
        )
        writer.write(page)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_page_of_another_port_that_gets_the_cookie_along_can_do_and_read_nothing(home: House, open_tab):
    machine = await home.machine()
    async with machine.attached() as attached, other_server() as evil:
        await attached.run("r-1", "WAITING")
        await attached.told(approval=approval("a-1", "r-1"))
        digest = home.services.approvals.get("a-1").digest
        tab = await open_tab("ana")
        page = await tab.page.context.new_page()  # the same cookies, and complaints that are the attacker's
        await page.goto(evil)
        tried = await page.evaluate(
            """async ([home, digest]) => {
                const json = (value) => ({ method: 'POST', credentials: 'include', body: JSON.stringify(value) });
                const typed = { 'content-type': 'application/json' };
                const order = { selector: { all: true }, reason: 'evil' };
                const said = [];
                for (const [path, init] of [
                    ['/api/v1/runs', { credentials: 'include' }],
                    ['/api/v1/session', { credentials: 'include' }],
                    ['/api/v1/orders', json(order)],
                    ['/api/v1/orders', { ...json(order), headers: typed }],
                    ['/api/v1/approvals/a-1/votes', { ...json({ verdict: 'approve', digest }), headers: typed }],
                    ['/api/v1/session', { method: 'DELETE', credentials: 'include' }],
                ]) {
                    try { said.push(await (await fetch(home + path, init)).text()); } catch { said.push(''); }
                    try { await fetch(home + path, { ...init, headers: {}, mode: 'no-cors' }); } catch { /* refused before it left */ }
                }
                const form = document.createElement('form');
                form.method = 'post'; form.action = home + '/api/v1/orders'; form.enctype = 'text/plain';
                const field = document.createElement('input');
                field.name = JSON.stringify(order).slice(0, -1) + ',"x":"'; field.value = '"}';
                form.append(field); document.body.append(form); form.submit();
                return said;
            }""",
            [home.url, digest],
        )
        await page.wait_for_load_state()
        await page.close()

        assert tried == [""] * 6
        assert home.services.projection.orders() == []
        assert home.services.approvals.get("a-1").state == "open"
        await tab.page.reload()
        await expect(tab.page.get_by_role("heading", name="Runs")).to_be_visible()


async def test_a_page_in_a_frame_shows_nothing(home: House, open_tab):
    async with other_server() as evil:
        tab = await open_tab("ana")
        page = await tab.page.context.new_page()
        await page.goto(evil)
        await page.evaluate(
            """home => new Promise(done => {
                const frame = document.createElement('iframe');
                frame.onload = done; frame.src = home; document.body.append(frame);
            })""",
            home.url,
        )
        assert await page.frames[-1].locator("#app").count() == 0
        await page.close()
