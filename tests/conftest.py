from pathlib import Path

import pytest
from toy_student import write_model_dir


@pytest.fixture(scope="session")
def toy_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder, see `toy_student`. Nobody may write to it."""
    return write_model_dir(tmp_path_factory.mktemp("models") / "toy")
