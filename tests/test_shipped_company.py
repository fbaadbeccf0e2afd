"""In the shipped int8 student too, a text's embedding does not depend on its company."""

import random
from pathlib import Path

import numpy as np

from app.runtime.artifact import load_manifest
from app.runtime.outputs import unit_vectors
from app.runtime.session import POOLED, StudentSession
from app.runtime.tokenizer import Encoded, Tokenizer

STUDENT = Path(__file__).resolve().parents[1] / "models" / "lightmbert-mini"


def test_company_moves_no_text() -> None:
    manifest = load_manifest(STUDENT)
    tokenizer = Tokenizer.load(STUDENT / "tokenizer.json", max_tokens=manifest.max_tokens)
    session = StudentSession.load(
        STUDENT, manifest, device="cpu", precision="int8", intra_op_threads=1
    )

    def embedded(batch: list[Encoded]) -> np.ndarray:
        return unit_vectors(session.run(batch)[POOLED], manifest.embedding_dimension)

    texts = [golden.text for golden in manifest.golden]
    encoded = tokenizer.encode([*texts, " ".join(texts), texts[0][:9]], truncate=True)
    alone = np.concatenate([embedded([each]) for each in encoded])
    draw = random.Random(0)
    for size in (2, 3, 5, 8, len(encoded)):
        for _ in range(4):
            chosen = draw.sample(range(len(encoded)), size)
            company = embedded([encoded[index] for index in chosen])
            cosines = (company * alone[chosen]).sum(axis=1)
            assert cosines.min() >= 0.99999
