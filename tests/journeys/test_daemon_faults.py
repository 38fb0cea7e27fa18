"""`kill -9` of a daemon at each boundary of its wire, its processes and what it does: nothing lost, doubled or orphaned."""

import random
from pathlib import Path

import pytest
from helpers.faults import DAEMON, chosen
from helpers.scripted import ScriptedModel
from helpers.story import daemon_dies
from helpers.world import world


@pytest.mark.parametrize("point", DAEMON)
async def test_the_daemon_dies_at(point: str, tmp_path: Path, model: ScriptedModel, luck: random.Random) -> None:
    async with world(tmp_path, model) as it:
        await daemon_dies(it, chosen(point, luck), luck)
