"""The main job by the page alone: a real run is watched, its question approved, its work read, and it is stopped with proof."""

import secrets
from pathlib import Path

from helpers.browser import chromium, tab
from helpers.daemons import alive_with
from helpers.eventually import eventually
from helpers.scripted import ScriptedModel
from helpers.world import PASSWORD, SLOW, world
from playwright.async_api import expect


async def test_a_real_run_is_approved_read_and_stopped_on_the_page(tmp_path: Path, model: ScriptedModel) -> None:
    token = f"31{secrets.randbelow(10**6):06}"
    async with world(tmp_path, model) as it, chromium() as browser, tab(browser, it.facts["http"]) as mine:
        expect.set_options(timeout=SLOW * 1000)
        await it.machine("mill")
        await mine.sign_in(it.person, password=PASSWORD)
        page = mine.page
        run = await it.start(
            "mill",
            [{"text": "I will write it.\n"}, {"tool": "Bash", "input": {"command": "echo hello > made.txt"}}],
            [{"text": "It is there.\n"}, {"tool": "Bash", "input": {"command": f"setsid sleep {token}"}}],
        )

        await expect(page.get_by_role("row", name="local/mill-repo")).to_contain_text("waiting")
        await mine.go("/approvals")
        card = page.get_by_role("article")
        await expect(card).to_contain_text("echo hello > made.txt")
        assert not (it.repo("mill") / "made.txt").exists()
        await card.get_by_role("button", name="Approve").click()
        await eventually((it.repo("mill") / "made.txt").exists, SLOW)

        await mine.go(f"/r/{run}")
        await expect(page.get_by_role("log")).to_contain_text("It is there.")
        await page.get_by_role("tab", name="Changes").click()
        await expect(page.get_by_text("made.txt").first).to_be_visible()

        # Its next command is alive, in a session of its own, when the run is stopped.
        await mine.go("/approvals")
        await expect(page.get_by_role("article")).to_contain_text(token)
        await page.get_by_role("article").get_by_role("button", name="Approve").click()
        await eventually(lambda: alive_with(token), SLOW)
        await mine.go(f"/r/{run}")
        await page.get_by_role("button", name="Stop").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Reason").fill("it sleeps")
        await dialog.get_by_role("button", name="Stop the run").click()
        await expect(page.get_by_role("heading", name="it sleeps")).to_be_visible()
        await expect(page.get_by_text("processes").first).to_be_visible()
        assert alive_with(token) == []
        assert (await it.run(run))["state"] == "stopped"
