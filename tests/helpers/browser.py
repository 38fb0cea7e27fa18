"""A real Chromium on a switchboard's page. Whatever the page says on its console, or tries to fetch elsewhere, is kept and judged."""

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.house import PASSWORD
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


def chromium_path() -> str:
    """Fails with the reason where there is none: a page that no browser has seen is not tested."""
    places = f"{os.environ.get('PATH', os.defpath)}:{Path(sys.executable).parent}"
    found = os.environ.get("SWITCHBOARD_CHROMIUM") or shutil.which("chromium", path=places)
    assert found, "these tests need chromium: tools/chromium.sh fetches Debian's, or name one in SWITCHBOARD_CHROMIUM"
    return found


@dataclass(slots=True)
class Tab:
    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", lambda said: said.type in ("error", "warning") and self._said(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", lambda request: self._asked(request.url))

    def _said(self, text: str) -> None:
        # A refused request is an answer that the page shows; the browser writes it on the console all the same.
        if not text.startswith("Failed to load resource: the server responded with a status of 4"):
            self.complaints.append(f"console: {text}")

    def _asked(self, url: str) -> None:
        if not url.startswith(self.url + "/"):
            self.complaints.append(f"a request to {url}")

    async def sign_in(self, person: str = "ana", path: str = "/", *, password: str = PASSWORD) -> None:
        await self.page.goto(self.url + path)
        await self.page.get_by_label("Name").fill(person)
        await self.page.get_by_label("Password").fill(password)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.page.get_by_role("navigation", name="Pages").wait_for()
        await self.page.locator(".link[data-state=live]").wait_for(state="attached")

    async def go(self, path: str) -> None:
        """As a click on a link does, without loading the page again."""
        await self.page.evaluate(
            "path => { const a = document.createElement('a'); a.href = path; document.body.append(a); a.click(); a.remove(); }",
            path,
        )

    async def overflow(self) -> int:
        """By how many pixels the page is wider than the screen."""
        return int(
            await self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        )


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    path = chromium_path()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def tab(browser: Browser, url: str, *, size: Any = None, dark: bool = False) -> AsyncIterator[Tab]:
    """A tab with storage of its own. Whatever it complained about by the end of the block fails the test."""
    context: BrowserContext = await browser.new_context(
        viewport=size or DESKTOP, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    try:
        opened = Tab(await context.new_page(), url)
        opened.watch()
        yield opened
        assert opened.complaints == []
    finally:
        await context.close()
