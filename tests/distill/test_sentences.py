"""The text written for this project: is every file of it fit to train on?"""

import csv
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from distill.encoders import FolderEncoder, embeddings

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "distill/sentences").glob("*.csv"))
LANGUAGES = {
    "written": {
        "ar", "bg", "cs", "de", "el", "fa", "fi", "he", "hi", "it", "ko", "sw", "tr", "uk", "ur",
    },
    "messages": {"ar", "de", "es", "fr", "he", "hi", "it", "pt"},
}  # fmt: skip
"""By source."""
SAMPLED = 60
"""Rows of a file that the student reads, evenly from all of it."""
ZERO_WIDTH_NON_JOINER = "\u200c"
"""Persian is spelled with it, and nothing else here with any character that cannot be seen."""


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def student() -> FolderEncoder:
    return FolderEncoder(ROOT / "models/lightmbert-mini", precision="int8", threads=1)


def test_each_language_has_its_file() -> None:
    assert {file.stem for file in FILES} == set.union(*LANGUAGES.values())
    assert min(len(rows(file)) for file in FILES) > 300


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_text_is_clean_and_nothing_is_there_twice(file: Path) -> None:
    found = rows(file)
    assert {tuple(row) for row in found} == {("text", "text_en", "source")}
    expected = {source for source, languages in LANGUAGES.items() if file.stem in languages}
    assert {row["source"] for row in found} == expected
    for side in ("text", "text_en"):
        texts = [row[side] for row in found]
        assert len(set(texts)) == len(texts)
        for text in texts:
            assert text == unicodedata.normalize("NFC", " ".join(text.split()))
            assert 2 <= len(text) <= 300
            unseen = {sign for sign in text if unicodedata.category(sign) in ("Cf", "Co", "Cn")}
            assert unseen <= ({ZERO_WIDTH_NON_JOINER} if file.stem == "fa" else set())
            assert "\ufffd" not in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_rows_are_translations_into_the_language_they_are_filed_under(
    file: Path, student: FolderEncoder
) -> None:
    """As far as the student that ships can tell, which trained on them: strays are found."""
    every = rows(file)
    some = every[:: len(every) // SAMPLED]
    texts = [row["text"] for row in some]
    labels = np.array(student.tasks["language"].labels)
    languages = labels[student.outputs(texts)["logits_language"].argmax(1)]
    assert (languages == file.stem).mean() > 0.95
    vectors = embeddings(student, texts)
    english = embeddings(student, [row["text_en"] for row in some])
    to_its_own = (vectors * english).sum(1)
    to_the_next = (vectors * np.roll(english, 1, axis=0)).sum(1)
    assert to_its_own.mean() > 0.4 > to_the_next.mean()
