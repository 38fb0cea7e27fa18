"""A switchboard for the tests of its web edge."""

from collections.abc import AsyncIterator

import pytest
from helpers.house import House, house


@pytest.fixture
async def home(store_url: str) -> AsyncIterator[House]:
    async with house(store_url) as made:
        yield made
