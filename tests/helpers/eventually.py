"""Wait for a fact, never for a time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

FIRST, LONGEST = (
    0.01,
    0.1,
)  # seconds between two looks: the longer it takes, the rarer, for a look costs what is waited for


async def eventually(fact: Callable[[], Any | Awaitable[Any]], within: float = 10, message: str = "") -> Any:
    """Return what *fact* gives as soon as that is true. An AssertionError of its own counts as not yet."""
    loop = asyncio.get_running_loop()
    until, last, pause = loop.time() + within, "it never held", FIRST
    while True:
        try:
            found = fact()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            last = f"it was {found!r}"
        except AssertionError as error:
            last = str(error) or "its assertion failed"
        if loop.time() >= until:
            raise AssertionError(f"{message or inspect.getsource(fact).strip()}: not within {within} s; at last {last}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.2, LONGEST)
