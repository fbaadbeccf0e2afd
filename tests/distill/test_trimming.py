"""A trimmed tokenizer cuts as before whatever needs no other pieces."""

import json
from collections.abc import Iterable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_encoder import TEXTS
from tiny_world import WORDS, sentences
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from distill.coverage import line_shares, needed_pieces
from distill.trimming import TrimError, Trimmed, trimmed
from distill.vocabulary import SPECIAL, train_tokenizer

WORLD = {language: sentences(language) for language in WORDS}
ALL = [*TEXTS, *(text for texts in WORLD.values() for text in texts)]


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(ALL, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(ALL, trainer)
    tokenizer.add_special_tokens(["<mask>"])  # beyond the model's own pieces
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return tokenizer


def of_kind(kind: str) -> Tokenizer:
    if kind == "wordpiece":
        return word_piece()
    if kind == "bytes":
        return byte_level()
    tokenizer = train_tokenizer(ALL, kind=kind, vocabulary=500)
    tokenizer.no_padding()
    return tokenizer


TOKENIZERS = {kind: of_kind(kind) for kind in ("wordpiece", "unigram", "bpe", "bytes")}
NAMES = {
    kind: {index: piece for piece, index in tokenizer.get_vocab().items()}
    for kind, tokenizer in TOKENIZERS.items()
}


def in_old_ids(small: Trimmed, text: str) -> list[int]:
    return [small.old_ids[new] for new in small.tokenizer.encode(text).ids]


def bare(piece: str) -> str:
    return piece.replace("##", "").replace("▁", " ").replace("Ġ", " ")


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150)
@given(data=st.data())
def test_a_text_whose_pieces_are_all_kept_is_cut_as_before(kind: str, data: st.DataObject) -> None:
    tokenizer, names = TOKENIZERS[kind], NAMES[kind]
    texts = st.lists(st.sampled_from([bare(piece) for piece in names.values()]), max_size=8)
    text = "".join(data.draw(texts)) + data.draw(st.sampled_from(["", " ", *ALL]))
    before = tokenizer.encode(text).ids
    # a word that WordPiece does not know as a whole may become known
    assume(kind != "wordpiece" or tokenizer.token_to_id("[UNK]") not in before)
    # any set that holds them will do, whatever else it lacks
    small = trimmed(tokenizer.to_str(), {*before, *data.draw(st.sets(st.sampled_from([*names])))})
    assert in_old_ids(small, text) == before


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_what_frames_a_text_keeps_its_place_in_the_table(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    small = trimmed(tokenizer.to_str(), set())
    frame = tokenizer.encode("").ids
    assert len(frame) > 0
    assert in_old_ids(small, "") == frame
    assert len(small.old_ids) < 30
    assert small.old_ids == sorted(small.old_ids)


def test_tokens_added_beyond_the_model_follow_it() -> None:
    tokenizer = TOKENIZERS["bytes"]
    small = trimmed(tokenizer.to_str(), {*tokenizer.encode("the dog").ids})
    assert in_old_ids(small, "the<mask> dog") == tokenizer.encode("the<mask> dog").ids
    assert small.tokenizer.token_to_id("<mask>") == small.tokenizer.get_vocab_size() - 1


def test_the_padding_of_a_tokenizer_follows_its_piece() -> None:
    tokenizer = train_tokenizer(ALL, kind="bpe", vocabulary=100)
    tokenizer.enable_padding(pad_id=50, pad_token=tokenizer.id_to_token(50))
    small = trimmed(tokenizer.to_str(), set())
    assert small.old_ids[small.tokenizer.padding["pad_id"]] == 50


def test_unigram_keeps_its_scores_and_the_least_of_them() -> None:
    text = TOKENIZERS["unigram"].to_str()
    scores = dict(json.loads(text)["model"]["vocab"])
    small = dict(json.loads(trimmed(text, {40, 41}).text)["model"]["vocab"])
    assert small.items() <= scores.items()
    assert min(small.values()) == min(scores.values())


def test_the_digits_of_a_score_stay_as_they_are_written() -> None:
    text = Tokenizer(models.Unigram([("[UNK]", 0.0), ("a", -2.5)], unk_id=0)).to_str()
    long = text.replace("-2.5", "-2.50000000000000012345")
    assert '["a",-2.50000000000000012345]' in trimmed(long, {1}).text.replace(" ", "")


def test_a_piece_that_is_a_null_character_is_kept() -> None:
    text = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "\0": 2}, unk_token="[UNK]")).to_str()
    assert trimmed(text, {2}).tokenizer.get_vocab() == {"[UNK]": 0, "\0": 1}


def test_a_bpe_piece_keeps_what_it_is_joined_from() -> None:
    vocabulary = {"[UNK]": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "bc": 5, "abc": 6, "x": 7}
    merges = [("a", "b"), ("b", "c"), ("ab", "c")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="[UNK]"))
    small = trimmed(tokenizer.to_str(), {6})
    assert set(small.tokenizer.get_vocab()) == {"[UNK]", "a", "b", "c", "ab", "abc"}
    assert json.loads(small.tokenizer.to_str())["model"]["merges"] == [["a", "b"], ["ab", "c"]]
    assert small.tokenizer.encode("abc").tokens == ["abc"]


def test_bpe_with_marks_inside_and_at_the_end_of_words_is_closed_too() -> None:
    vocabulary = {"a": 0, "@b": 1, "@c</w>": 2, "ab": 3, "abc</w>": 4}
    merges = [("a", "@b"), ("ab", "@c</w>")]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="@",
            end_of_word_suffix="</w>",
        )
    )
    assert tokenizer.encode("abc").tokens == ["abc</w>"]
    small = trimmed(tokenizer.to_str(), {4})
    assert small.tokenizer.encode("abc").tokens == ["abc</w>"]


def test_a_model_of_another_kind_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(TrimError, match="kind WordLevel cannot be trimmed; known: WordPiece"):
        trimmed(words.to_str(), {0})


def test_a_share_counts_the_texts_a_piece_is_in() -> None:
    tokenizer = word_piece()
    shares = line_shares(tokenizer, ["the dog", "the the cat", "a bird", "!"])
    assert shares[tokenizer.token_to_id("the")] == 0.5
    assert tokenizer.token_to_id("[CLS]") not in shares


def needed(kind: str, languages: Iterable[str], min_share: float) -> set[str]:
    texts = {language: WORLD[language] for language in languages}
    ids = needed_pieces(TOKENIZERS[kind], texts, min_share=min_share)
    return {NAMES[kind][index] for index in ids}


def test_a_piece_rare_in_one_language_stays_for_another_it_is_frequent_in() -> None:
    german, both = needed("bpe", ["de"], 0.1), needed("bpe", ["de", "ru"], 0.1)
    assert german < both
    assert "▁собака" in both - german


def test_a_piece_below_the_share_goes() -> None:
    # each creature is in a sixth of the sentences
    assert "▁hund" in needed("bpe", ["de"], 0.16)
    assert "▁hund" not in needed("bpe", ["de"], 0.17)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
def test_characters_of_the_languages_stay_whatever_the_share(kind: str) -> None:
    pieces = needed(kind, ["de"], 1.0)
    for character in "hundkatze":
        assert character in pieces or f"##{character}" in pieces or f"▁{character}" in pieces
    assert not pieces & {"собака", "狗", "##狗", "с"}


def test_every_byte_stays() -> None:
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= needed("bytes", ["de"], 1.0)


def test_what_any_text_may_hold_stays_though_none_of_these_did() -> None:
    always, others = ["7", "##7", "!", "€", "<0x0A>"], ["z", "##z", "77"]
    pieces = ["[UNK]", "a", *always, *others]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    found = needed_pieces(tokenizer, {"en": ["a"]}, min_share=0.5)
    assert {pieces[index] for index in found} == {"a", *always}
