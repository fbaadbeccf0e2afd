import pytest
from tiny_world import World, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Encoders and text, see `tiny_world`. Nobody may write to it."""
    return write_world(tmp_path_factory.mktemp("world"))
