"""The student that ships keeps what its manifest and card say, as it is served."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.engine import Engine
from app.metrics import Metrics
from app.results import Classified, Embedded
from app.runtime.artifact import Manifest, load_manifest, verify_file
from app.settings import Settings

STUDENT = Path(__file__).resolve().parents[1] / "models" / "lightmbert-mini"
MAX_INT8_BYTES = 40_000_000
MAX_FILE_BYTES = 50_000_000


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return load_manifest(STUDENT)


class Student:
    """The engine, asked from code that does not wait for it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.engine = Engine.load(Settings(model_dir=STUDENT), Metrics(error_codes=[]))
        self._loop.run_until_complete(self.engine.start())

    def embed(self, *texts: str) -> Embedded:
        return self._loop.run_until_complete(self.engine.embed(texts))

    def classify(self, *texts: str, task: str) -> Classified:
        return self._loop.run_until_complete(self.engine.classify(texts, task=task))

    def zero_shot(self, *texts: str, labels: tuple[str, ...]) -> Classified:
        return self._loop.run_until_complete(self.engine.zero_shot(texts, labels))

    def close(self) -> None:
        self._loop.run_until_complete(self.engine.stop())
        self._loop.close()


@pytest.fixture(scope="module")
def student() -> Iterator[Student]:
    student = Student()
    yield student
    student.close()


def test_every_file_is_the_one_that_the_manifest_describes(manifest: Manifest) -> None:
    for entry in (manifest.tokenizer, *manifest.variants):
        path = verify_file(STUDENT, entry)
        assert path.stat().st_size < MAX_FILE_BYTES
    for variant in manifest.variants:
        assert (STUDENT / variant.file).stat().st_size == variant.bytes


def test_it_serves_cpus_in_int8_and_gpus_in_fp16(manifest: Manifest) -> None:
    held = {(variant.precision, variant.target): variant for variant in manifest.variants}
    assert {("int8", "cpu-avx2"), ("fp16", "cuda")} <= set(held)
    assert held["int8", "cpu-avx2"].bytes < MAX_INT8_BYTES


def test_nothing_lies_in_the_folder_that_the_manifest_does_not_name(manifest: Manifest) -> None:
    named = {entry.file for entry in (manifest.tokenizer, *manifest.variants)}
    assert {path.name for path in STUDENT.iterdir()} == named | {"manifest.json", "CARD.md"}


def test_it_was_measured_in_each_language_that_it_claims(manifest: Manifest) -> None:
    topic = manifest.provenance.metrics["int8"]["topic"]
    assert set(topic) == set(manifest.languages)
    assert len(manifest.languages) == 29


def test_the_card_shows_the_figures_of_the_manifest(manifest: Manifest) -> None:
    card = (STUDENT / "CARD.md").read_text(encoding="utf-8")
    for language, score in manifest.provenance.metrics["int8"]["topic"].items():
        assert any(
            line.startswith(f"| {language} |") and f"{score:.3f}" in line
            for line in card.splitlines()
        ), language
    assert "What it is weak at" in card


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("Timu yetu ilishinda mechi ya fainali kwa mabao matatu.", "sports"),
        ("टीम ने आखिरी मिनट में गोल करके मैच जीत लिया।", "sports"),
        ("Die Mannschaft gewann das Finale mit drei zu eins.", "sports"),
        ("医生说这种疫苗可以预防感染。", "health"),
    ],
)
def test_a_head_trained_on_english_answers_in_other_languages(
    student: Student, text: str, topic: str
) -> None:
    (best, *_), *_ = student.classify(text, task="topic").ranking
    assert best[0] == topic


def test_a_translation_is_nearer_than_another_sentence(student: Student) -> None:
    vectors = student.embed(
        "The museum opens at nine in the morning.",
        "Makumbusho hufunguliwa saa tatu asubuhi.",
        "Das Museum öffnet um neun Uhr morgens.",
        "博物馆早上九点开门。",
        "She broke her leg while skiing.",
    ).vectors
    cosine = vectors @ vectors.T
    assert (cosine[0, 1:4] > cosine[0, 4]).all()
    np.testing.assert_allclose(np.diag(cosine), 1, atol=1e-5)


def test_labels_of_ones_own_are_found_in_any_language_and_company(student: Student) -> None:
    texts = (
        "The striker scored twice in the final.",
        "Unser Team gewann das Spiel im Stadion mit drei Toren.",
        "该国总统在议会选举后宣布了新政府。",
        "Serikali ilitangaza uchaguzi wa bunge mpya, na rais akahutubia taifa baada ya kura.",
    )
    labels = ("sports", "politics")
    together = student.zero_shot(*texts, labels=labels).scores
    assert together.argmax(axis=1).tolist() == [0, 0, 1, 1]
    alone = np.concatenate([student.zero_shot(text, labels=labels).scores for text in texts])
    np.testing.assert_allclose(alone, together, atol=1e-4)
    turned = student.zero_shot(*texts, labels=labels[::-1]).scores
    np.testing.assert_allclose(turned[:, ::-1], together, atol=1e-6)
