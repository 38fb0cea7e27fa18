"""`kill -9` of the server at each boundary of its store, its disk and its wire: nothing lost, doubled or orphaned."""

import random
from pathlib import Path

import pytest
from helpers.faults import SERVER, chosen
from helpers.scripted import ScriptedModel
from helpers.story import server_dies
from helpers.world import world


@pytest.mark.parametrize("point", SERVER)
async def test_the_server_dies_at(point: str, tmp_path: Path, model: ScriptedModel, luck: random.Random) -> None:
    async with world(tmp_path, model) as it:
        await server_dies(it, chosen(point, luck), luck)
