"""A switchboard, a browser, and tabs whose every complaint is a failure. One event loop and one browser serve all of them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from helpers.browser import Tab, chromium, tab
from helpers.house import House, house
from playwright.async_api import Browser

OpenTab = Callable[..., Awaitable[Tab]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "browser":
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def home(store_url: str) -> AsyncIterator[House]:
    async with house(store_url) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def open_tab(browser: Browser, home: House) -> AsyncIterator[OpenTab]:
    """Call it with a person's name to have them signed in; `size`, `dark` and `path` say how and where."""
    async with AsyncExitStack() as stack:

        async def opened(person: str | None = "ana", *, path: str = "/", **how: object) -> Tab:
            made = await stack.enter_async_context(tab(browser, home.url, **how))
            if person is None:
                await made.page.goto(home.url + path)
            else:
                await made.sign_in(person, path)
            return made

        yield opened
