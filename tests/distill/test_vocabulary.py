from collections.abc import Iterable
from pathlib import Path

import pytest
from tiny_world import WORDS, World, recipe, sentences
from tokenizers import Tokenizer

from distill import tokenizer as verb
from distill.config import RecipeError
from distill.vocabulary import SPECIAL, Kind, train_tokenizer

TEXTS = [text for language in WORDS for text in sentences(language)]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def kind(request: pytest.FixtureRequest) -> Kind:
    given: Kind = request.param
    return given


@pytest.fixture(scope="module")
def trained(kind: Kind) -> Tokenizer:
    tokenizer = train_tokenizer(TEXTS, kind=kind, vocabulary=120)
    tokenizer.no_padding()
    return tokenizer


def test_the_vocabulary_is_no_larger_than_asked(trained: Tokenizer, kind: Kind) -> None:
    assert 100 < trained.get_vocab_size() <= 120
    assert train_tokenizer(TEXTS, kind=kind, vocabulary=90).get_vocab_size() <= 90


def test_special_tokens_come_first_and_padding_is_zero(trained: Tokenizer) -> None:
    assert [trained.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3, 4]
    assert trained.id_to_token(0) == "[PAD]"


def test_a_text_is_framed_as_bert_frames_it(trained: Tokenizer) -> None:
    tokens = trained.encode("the dog").tokens
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    pair = trained.encode("the dog", "der Hund")
    assert pair.tokens.count("[SEP]") == 2
    second = pair.tokens.index("[SEP]") + 1
    assert pair.type_ids == [0] * second + [1] * (len(pair.type_ids) - second)


def test_case_width_and_spaces_around_make_no_difference(trained: Tokenizer) -> None:
    plain = trained.encode("the dog").ids
    assert trained.encode("The DOG").ids == plain
    assert trained.encode("ｔｈｅ　ｄｏｇ").ids == plain
    assert trained.encode(" \tthe dog ").ids == plain


@pytest.mark.parametrize("language", sorted(WORDS))
def test_a_text_seen_in_training_is_spelled_without_unknowns(
    trained: Tokenizer, language: str
) -> None:
    for text in sentences(language):
        ids = trained.encode(text).ids
        assert not unknown(trained, text)
        assert trained.decode(ids) == text.lower()


def unknown(tokenizer: Tokenizer, text: str) -> bool:
    return tokenizer.token_to_id("[UNK]") in tokenizer.encode(text).ids


def test_a_character_never_seen_is_unknown(trained: Tokenizer) -> None:
    assert unknown(trained, "ᚠ")


def test_no_piece_spans_words_or_punctuation(trained: Tokenizer) -> None:
    # Pieces are found within these parts; a script without spaces is one part until then.
    parts = trained.pre_tokenizer.pre_tokenize_str("the dog, the 狗在家!")
    assert [part for part, _ in parts] == ["▁the", "▁dog", ",", "▁the", "▁狗在家", "!"]


def test_the_verb_writes_a_tokenizer_of_the_recipes_languages(world: World, tmp_path: Path) -> None:
    table = {
        "corpus": [{"path": world.mono, "languages": ["en", "ru"]}],
        "kind": "unigram",
        "vocabulary": 60,
        "texts_per_language": 60,
        "folder": tmp_path / "tokenizer",
    }
    verb.run(recipe(tmp_path / "run", tokenizer=table))
    [file] = (tmp_path / "tokenizer").iterdir()
    found = Tokenizer.from_file(str(file))
    assert file.name == "tokenizer.json"
    assert found.get_vocab_size() <= 60
    assert not unknown(found, "собака")
    assert unknown(found, "狗")
    # saved with padding on, as those who load a tokenizer.json elsewhere expect
    assert found.padding["pad_id"] == 0


def test_a_language_may_get_more_texts_than_the_others(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []

    def listening(texts: Iterable[str], *, kind: Kind, vocabulary: int) -> Tokenizer:
        given.extend(texts)
        return train_tokenizer(given, kind=kind, vocabulary=vocabulary)

    monkeypatch.setattr(verb, "train_tokenizer", listening)
    table = {
        "corpus": [{"path": world.mono, "languages": ["en", "ru"]}],
        "kind": "unigram",
        "vocabulary": 60,
        "texts_per_language": 5,
        "texts_of": {"en": 9},
        "folder": tmp_path / "tokenizer",
    }
    verb.run(recipe(tmp_path / "run", tokenizer=table))
    assert len(given) == 9 + 5
    with pytest.raises(RecipeError, match="texts_of names fr; no text is of that language"):
        verb.run(recipe(tmp_path / "run", tokenizer=table | {"texts_of": {"fr": 9}}))


def test_a_frequent_word_becomes_a_piece_though_no_other_word_contains_it() -> None:
    texts = ["quốc gia này", "gia đình", "này là quốc kỳ"] * 20
    tokenizer = train_tokenizer(texts, kind="bpe", vocabulary=80)
    assert "▁quốc" in tokenizer.encode("quốc").tokens
