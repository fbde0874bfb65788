"""Every test of this folder runs once per instruction set."""

import pytest

from kernels.native import library as native
from tests.csrc.levels import operators


@pytest.fixture(scope="session", params=native.LEVELS)
def ops(request: pytest.FixtureRequest) -> native.Operators:
    return operators(request.param)
