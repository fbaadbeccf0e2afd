"""What a text is answered does not depend on the texts that happen to be in its batch."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoder import TEXTS, write_encoder_with_heads

from app.runtime.artifact import load_manifest
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer
from distill.export import Card, export_student

MIN_COSINE = 0.99999
MAX_TOKENS = 48
LONG = " ".join(TEXTS)


class Fp32Student:
    """A tiny encoder with heads, exported and opened as the service opens it."""

    def __init__(self, folder: Path) -> None:
        encoder, model = folder / "encoder", folder / "model"
        card = Card(
            name="tiny",
            revision="1",
            license="Apache-2.0",
            languages=("en",),
            max_tokens=MAX_TOKENS,
            golden_texts=TEXTS,
            recipe="tiny.toml",
            recipe_sha256="0" * 64,
        )
        export_student(write_encoder_with_heads(encoder), model, card=card, min_cosine=0.9999)
        manifest = load_manifest(model)
        self.tokenizer = Tokenizer.load(model / "tokenizer.json", max_tokens=MAX_TOKENS)
        self.session = StudentSession.load(
            model, manifest, device="cpu", precision="fp32", intra_op_threads=1
        )

    def outputs(self, *texts: str) -> dict[str, np.ndarray]:
        return self.session.run(self.tokenizer.encode(texts, truncate=True))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Fp32Student:
    return Fp32Student(tmp_path_factory.mktemp("company"))


@given(
    text=st.sampled_from([*TEXTS, LONG]),
    company=st.lists(st.sampled_from([*TEXTS, LONG]), min_size=1, max_size=9),
    place=st.integers(0, 9),
)
def test_a_text_means_the_same_alone_and_in_company(
    student: Fp32Student, text: str, company: list[str], place: int
) -> None:
    place = min(place, len(company))
    alone = student.outputs(text)
    mixed = student.outputs(*company[:place], text, *company[place:])
    for name, [expected] in alone.items():
        found = mixed[name][place]
        cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
        assert cosine >= MIN_COSINE, name
        np.testing.assert_allclose(found, expected, atol=1e-4)
