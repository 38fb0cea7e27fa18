"""What the tests of the link share."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers.wire import Wire, wired


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    """A machine that stays attached while the test runs."""
    async with wired(tmp_path) as made, asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(made.control.run()), tasks.create_task(made.upload.run())]
        try:
            yield made
        finally:
            for task in running:
                task.cancel()
