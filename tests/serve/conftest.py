"""One server with the embedded model for all tests that do it no harm."""

from collections.abc import Iterator

import pytest

from tests.serve.running_server import RunningServer


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    with RunningServer() as running:
        yield running


@pytest.fixture(scope="session")
def engine():
    """The same model in this process: what the server's answers are compared with."""
    from engine import Engine

    with Engine("models/s1-nano") as engine:
        yield engine
