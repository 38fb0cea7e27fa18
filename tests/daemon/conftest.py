"""What the daemon's tests share."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from helpers.mill import Mill, mill
from helpers.scripted import ScriptedModel, scripted_model


@pytest.fixture(scope="session")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


@pytest.fixture
async def machine(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Mill]:
    async with mill(tmp_path, model) as made:
        yield made
