import tomllib

import pytest

from .corpus import FRAGMENTS, WEIGHTS, Kind, texts


@pytest.mark.parametrize("kind", ["short", "mixed"])
def test_texts_are_distinct_and_the_same_for_a_seed(kind: Kind) -> None:
    found = texts(kind, 600)
    assert len(set(found)) == 600
    assert texts(kind, 600) == found
    assert texts(kind, 600, seed=1) != found


def test_every_language_with_fragments_is_asked() -> None:
    assert set(tomllib.loads(FRAGMENTS.read_text(encoding="utf-8"))) == set(WEIGHTS)


def test_only_the_mixed_texts_hold_paragraphs() -> None:
    assert max(len(text) for text in texts("short", 400)) < 200
    assert max(len(text) for text in texts("mixed", 400)) > 300
