from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits
from tiny_world import World, write_world


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """On matrices of this size a second thread only waits, and spins while it does."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Encoders and text, see `tiny_world`. Nobody may write to it."""
    return write_world(tmp_path_factory.mktemp("world"))
