"""When the metrics told are those of several processes."""

from pathlib import Path

import pytest

from app import shared_metrics


def test_a_process_that_joined_nobody_tells_its_own_whatever_variable_it_inherits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(shared_metrics.FOLDER, str(tmp_path))
    assert shared_metrics.registry_of_all() is None
