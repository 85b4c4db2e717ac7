"""For every test of adapters."""

import pytest

from helpers.draws import uniform


@pytest.fixture(scope="session")
def diffusers():
    return pytest.importorskip("diffusers")


@pytest.fixture
def x():
    """RGB images."""
    return uniform(4, 3, 8, 8, seed=1)
