"""The text written for this project: is every file of it fit to train on?"""

import unicodedata
from collections import Counter
from pathlib import Path

import pyarrow.csv
import pytest

FOLDER = Path(__file__).parents[2] / "distill/sentences"
FILES = sorted(FOLDER.glob("*.csv"))
SCRIPTS = {
    "ar": "ARABIC",
    "bg": "CYRILLIC",
    "el": "GREEK",
    "fa": "ARABIC",
    "he": "HEBREW",
    "hi": "DEVANAGARI",
    "ko": "HANGUL",
    "uk": "CYRILLIC",
    "ur": "ARABIC",
}
"""Of languages that are not written in Latin letters."""


def rows(file: Path) -> list[dict[str, str]]:
    told: list[dict[str, str]] = pyarrow.csv.read_csv(file).to_pylist()
    return told


def script(text: str) -> str:
    """The script that most of its letters are of."""
    names = Counter(unicodedata.name(letter).split()[0] for letter in text if letter.isalpha())
    return names.most_common(1)[0][0]


def test_there_are_some() -> None:
    assert SCRIPTS.keys() <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_row_is_a_pair_in_two_languages(file: Path) -> None:
    found = rows(file)
    assert found
    assert found[0].keys() == {"text", "text_en", "source"}
    assert {row["source"] for row in found} == {"written"}
    wrong = [
        row
        for row in found
        if script(row["text"]) != SCRIPTS.get(file.stem, "LATIN")
        or script(row["text_en"]) != "LATIN"
        or row["text"] == row["text_en"]
    ]
    assert wrong == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_text_is_clean_and_nothing_is_there_twice(file: Path) -> None:
    texts = [row["text"] for row in rows(file)]
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert text == unicodedata.normalize("NFC", " ".join(text.split()))
        assert 2 <= len(text) <= 300
