"""What only a machine with a CUDA device can show."""

from pathlib import Path

import numpy as np
import pytest

from app.engine import Engine
from app.errors import VariantError
from app.metrics import Metrics
from app.runtime.outputs import unit_vectors
from app.runtime.session import POOLED
from app.runtime.tokenizer import Tokenizer
from app.settings import Settings

STUDENT = Path(__file__).resolve().parents[1] / "models" / "lightmbert-mini"


@pytest.fixture(scope="module")
def engine() -> Engine:
    try:
        return Engine.load(Settings(model_dir=STUDENT, device="cuda", runners=2), Metrics())
    except VariantError as error:
        pytest.skip(f"no CUDA device that works: {error}")


@pytest.mark.gpu
def test_each_runner_has_a_session_of_its_own(engine: Engine) -> None:
    first, second = engine._model.students
    assert first.session is not second.session
    for student in (first, second):
        assert student.session.providers[0] == "CUDAExecutionProvider"


@pytest.mark.gpu
def test_company_moves_a_text_hardly_in_half_precision(engine: Engine) -> None:
    manifest = engine.manifest
    tokenizer = Tokenizer.load(STUDENT / "tokenizer.json", max_tokens=manifest.max_tokens)
    texts = [golden.text for golden in manifest.golden]
    encoded = tokenizer.encode([*texts, " ".join(texts)], truncate=True)
    width = manifest.embedding_dimension
    company = unit_vectors(engine.session.run(encoded)[POOLED], width)
    alone = [unit_vectors(engine.session.run([each])[POOLED], width)[0] for each in encoded]
    assert (company * np.stack(alone)).sum(axis=1).min() >= 0.999
