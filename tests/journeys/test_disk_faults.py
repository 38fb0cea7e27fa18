"""`kill -9` of a daemon before and after each thing that it writes to its disk: nothing lost, doubled or orphaned."""

import random
from pathlib import Path

import pytest
from helpers.faults import DISK, chosen
from helpers.scripted import ScriptedModel
from helpers.story import daemon_dies
from helpers.world import world


@pytest.mark.parametrize("point", DISK)
async def test_the_daemon_dies_at(point: str, tmp_path: Path, model: ScriptedModel, luck: random.Random) -> None:
    async with world(tmp_path, model) as it:
        await daemon_dies(it, chosen(point, luck), luck)
