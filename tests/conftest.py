import os
from pathlib import Path

import pytest
from hypothesis import settings
from toy_student import write_model_dir

# Other packages, another environment: `make conformance`.
collect_ignore = ["conformance"]

# Time limits measure the machine, not the code.
settings.register_profile("steady", deadline=None, max_examples=50)
settings.load_profile("steady")

# Measuring takes time, and the result would be kept in the home of whoever runs the tests.
os.environ["LIGHTMBERT_AUTOTUNE"] = "false"

# So are heads; no test is to find those of whoever runs it, or to leave one behind. Not even root
# can make this folder.
os.environ["LIGHTMBERT_HEADS_DIR"] = "/proc/none/heads"


@pytest.fixture(scope="session")
def toy_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder, see `toy_student`. Nobody may write to it."""
    return write_model_dir(tmp_path_factory.mktemp("models") / "toy")
