"""What journeys share: the scripted model, and the luck that a seed brings."""

import random
from collections.abc import Iterator

import pytest
from helpers.scripted import ScriptedModel, scripted_model


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> str:
    """The seed of the property tests when one is given."""
    return str(request.config.getoption("--hypothesis-seed") or random.SystemRandom().randrange(10**6))


@pytest.fixture
def luck(request: pytest.FixtureRequest, seed: str) -> random.Random:
    """What this test leaves to chance; the same seed chooses the same."""
    print(f"--hypothesis-seed={seed} chooses the same again")  # shown when the test fails
    return random.Random(f"{seed} {request.node.name}")
