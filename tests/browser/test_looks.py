"""That everybody can use it: both themes, a narrow phone, a screen reader, a thumb, and a list ten thousand long."""

import pytest
from axe_playwright_python.async_playwright import Axe
from helpers.browser import DESKTOP, PHONE, Tab
from helpers.crowd import SCREENS, crowd
from helpers.house import House
from playwright.async_api import expect

NARROW = {"width": 320, "height": 640}


async def settled(tab: Tab, path: str) -> None:
    """Go there and wait until nothing is being drawn or asked for."""
    await tab.go(path)
    await expect(tab.page.locator("h1")).to_have_count(1)
    await expect(tab.page.locator(".skeleton")).to_have_count(0)
    await tab.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_axe_finds_nothing_on_any_screen(home: House, open_tab, dark: bool, size: dict[str, int]):
    async with crowd(home) as (_, stop):
        out = await open_tab(None, path="/sign-in", dark=dark, size=size)
        found = {"/sign-in": (await Axe().run(out.page)).response["violations"]}
        tab = await open_tab("ana", dark=dark, size=size)
        for path in (*SCREENS, stop):
            await settled(tab, path)
            found[path] = (await Axe().run(tab.page)).response["violations"]

    said = [
        f"{path}: {v['id']} {[node['target'] for node in v['nodes']][:3]}" for path, all in found.items() for v in all
    ]
    assert said == []


async def test_nothing_is_wider_than_a_narrow_phone_and_everything_is_large_enough_for_a_thumb(home: House, open_tab):
    small = """[...document.querySelectorAll('button, input, textarea, select, nav a, summary')].filter(e => {
        const box = (e.type === 'checkbox' || e.type === 'radio') ? e.closest('label').getBoundingClientRect() : e.getBoundingClientRect();
        return box.width && box.height && box.height < 43.5;
    }).map(e => e.outerHTML.slice(0, 90))"""
    async with crowd(home, "-a-rather-long-name-without-a-place-to-break-it") as (_, stop):
        tab = await open_tab("ana", size=NARROW)
        wide, tiny = {}, {}
        for path in (*SCREENS, stop):
            await settled(tab, path)
            wide[path] = await tab.overflow()
            tiny[path] = await tab.page.evaluate(small)

    assert {path: by for path, by in wide.items() if by > 0} == {}
    assert {path: which for path, which in tiny.items() if which} == {}


async def test_ten_thousand_runs_are_a_few_dozen_rows(home: House, open_tab):
    tab = await open_tab("ana")
    await expect(tab.page.get_by_text("Nothing is running")).to_be_visible()
    await tab.page.evaluate(
        """async () => {
            const { runs } = await import('/panel/store.js');
            runs.take(Array.from({ length: 10000 }, (_, n) => ({
                id: `r-${n}`, repo: `example.org/repo-${n % 40}`, branch: 'main', machine: 'm', machine_name: `mill-${n % 300}`,
                agent: 'claude', agent_version: '2', owner: 'ana',
                state: n % 50 ? 'running' : 'waiting', active: true, age_s: n, changed_s: 1,
                proof_age_s: 1, reachable: true, prompt: 'x', waits_for: '',
            })));
        }"""
    )
    rows = tab.page.locator("tr.one")
    await expect(tab.page.get_by_text("10,000 active · 200 waiting")).to_be_visible()
    assert await rows.count() < 120
    await expect(rows.first).to_contain_text("waiting")
    await tab.page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    await expect(rows.last).to_contain_text("mill-99")
    assert await rows.count() < 120
    await tab.page.get_by_label("Filter runs").fill("repo-7 machine:mill-47")
    await expect(tab.page.locator("tr.one").first).to_contain_text("repo-7")
    assert await tab.overflow() == 0


async def test_a_row_keeps_its_place_while_a_button_is_down(home: House, open_tab):
    machine = await home.machine()
    tab = await open_tab("ana")
    async with machine.attached() as attached:
        for n in range(3):
            await attached.run(f"r-{n}", age_ms=n * 1000, repo=f"example.org/{n}")
        rows = tab.page.locator("tr.one")
        await expect(rows).to_have_count(3)
        await tab.page.mouse.move(600, 5)
        await tab.page.mouse.down()
        await attached.run("r-2", "WAITING", revision=2, age_ms=2000, repo="example.org/2")
        await expect(rows.nth(2)).to_contain_text("waiting")
        await tab.page.mouse.up()
        await expect(rows.nth(0)).to_contain_text("waiting")
