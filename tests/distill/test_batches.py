from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from tiny_world import World, sentences
from tokenizers import Tokenizer, models, pre_tokenizers

from distill import batches
from distill.batches import (
    Batch,
    Batches,
    Cursor,
    TokenizerError,
    Tokens,
    encode_ids,
    load_tokenizer,
    tokenize,
)
from distill.corpus import Corpus, load_corpus
from distill.tables.text import CorpusTable

BUDGET = 300
BLOCK = 100
TOKENS = 24
"""Texts are cut there."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BLOCK_TEXTS", BLOCK)


@pytest.fixture(scope="module")
def tokenizer(world: World) -> Tokenizer:
    return load_tokenizer(world.teacher / "tokenizer.json", max_tokens=TOKENS)


@pytest.fixture(scope="module")
def english_tokenizer(world: World) -> Tokenizer:
    return load_tokenizer(world.english / "tokenizer.json", max_tokens=TOKENS)


@pytest.fixture(scope="module")
def parallel(world: World) -> Corpus:
    return load_corpus([CorpusTable(path=world.parallel, pair_column="text_en")], exponent=0.5)


@pytest.fixture(scope="module")
def mono(world: World) -> Corpus:
    return load_corpus([CorpusTable(path=world.mono)], exponent=0.5)


def stream(corpus: Corpus, tokenizer: Tokenizer, english: Tokenizer, *, seed: int = 1) -> Batches:
    return Batches(corpus, tokenizer, english, max_batch_tokens=BUDGET, seed=seed)


def block(stream: Batches, number: int) -> list[Batch]:
    """All batches of one block."""
    found = []
    for after, batch in stream.since(Cursor(number)):
        found.append(batch)
        if after.block > number:
            break
    return found


def rows_of(tokens: Tokens) -> list[tuple[int, ...]]:
    return [tuple(ids[mask].tolist()) for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]


def sides_of(batch: Batch) -> list[Tokens]:
    return [side for side in (batch.text, batch.english, batch.teacher_english) if side is not None]


def lengths_of(batch: Batch) -> list[int]:
    """Of each row, the longest side."""
    return torch.stack([side.mask.sum(1) for side in sides_of(batch)]).amax(0).tolist()


def same(one: tuple[Cursor, Batch], other: tuple[Cursor, Batch]) -> bool:
    def rows(batch: Batch) -> list[object]:
        sides = (batch.text, batch.english, batch.teacher_english)
        return [side and rows_of(side) for side in sides]

    return one[0] == other[0] and rows(one[1]) == rows(other[1])


def test_the_mask_is_true_on_exactly_the_tokens(tokenizer: Tokenizer) -> None:
    texts = ["the dog", "мой", "", "狗睡觉在家 the dog sleeps"]
    tokens = tokenize(tokenizer, texts)
    assert tokens.ids.dtype == torch.int64
    assert tokens.mask.dtype == torch.bool
    assert tokens.ids.shape == tokens.mask.shape
    assert tokens.ids.shape[1] % 8 == 0
    for ids, mask, expected in zip(
        tokens.ids, tokens.mask, encode_ids(tokenizer, texts), strict=True
    ):
        count = len(expected)
        assert ids[:count].tolist() == expected
        assert mask.tolist() == [True] * count + [False] * (len(mask) - count)
        assert ids[count:].tolist() == [tokenizer.token_to_id("[PAD]")] * (len(mask) - count)


def test_a_batch_is_no_wider_than_its_longest_text_rounded_to_eight(tokenizer: Tokenizer) -> None:
    tokens = tokenize(tokenizer, ["the dog", "the dog sleeps at home"])
    longest = int(tokens.mask.sum(1).max())
    assert longest <= tokens.ids.shape[1] < longest + 8


@pytest.mark.parametrize("room", [11, 15, 16, 17])
def test_no_row_is_longer_than_texts_may_be(world: World, mono: Corpus, room: int) -> None:
    tokenizer = load_tokenizer(world.teacher / "tokenizer.json", max_tokens=room)
    tokens = tokenize(tokenizer, [" ".join(sentences("en")), "the dog"])
    assert tokens.ids.shape == tokens.mask.shape == (2, room)
    found = block(Batches(mono, tokenizer, tokenizer, max_batch_tokens=BUDGET, seed=1), 0)
    assert max(batch.text.ids.shape[1] for batch in found) == room


def test_a_text_is_cut_at_the_limit_and_still_framed(world: World) -> None:
    tokenizer = load_tokenizer(world.teacher / "tokenizer.json", max_tokens=6)
    [ids] = encode_ids(tokenizer, ["the dog sleeps by the river"])
    assert len(ids) == 6
    assert [tokenizer.id_to_token(ids[0]), tokenizer.id_to_token(ids[-1])] == ["[CLS]", "[SEP]"]


def test_a_tokenizer_without_a_pad_token_of_berts_name_will_do(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "dog": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokens = tokenize(load_tokenizer(tmp_path / "tokenizer.json", max_tokens=8), ["dog", "dog cat"])
    assert rows_of(tokens) == [(2,), (2, 1)]


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    for name in ("none.json", "tokenizer.json"):
        with pytest.raises(TokenizerError, match=rf"{name} is not a tokenizer"):
            load_tokenizer(tmp_path / name, max_tokens=8)


def test_a_batch_keeps_the_budget_on_each_side(
    parallel: Corpus, tokenizer: Tokenizer, english_tokenizer: Tokenizer
) -> None:
    found = block(stream(parallel, tokenizer, english_tokenizer), 0)
    assert len(found) > 5
    for batch in found:
        assert all(side.ids.numel() <= BUDGET for side in sides_of(batch))
    # and is not smaller than it must be: one more text would not have fitted
    in_order = sorted(
        map(lengths_of, found), key=lambda lengths: (min(lengths), max(lengths), -len(lengths))
    )
    for lengths, following in pairwise(in_order):
        width = min(-(-min(following) // 8) * 8, TOKENS)
        assert width * (len(lengths) + 1) > BUDGET


def test_a_text_beyond_the_budget_is_a_batch_of_its_own(mono: Corpus, tokenizer: Tokenizer) -> None:
    tight = Batches(mono, tokenizer, tokenizer, max_batch_tokens=10, seed=1)
    for batch in block(tight, 0):
        lengths = lengths_of(batch)
        assert len(lengths) == 1 or max(lengths) * len(lengths) <= 10


def test_every_drawn_row_is_seen_once_per_block(
    parallel: Corpus, tokenizer: Tokenizer, english_tokenizer: Tokenizer
) -> None:
    batches_of = stream(parallel, tokenizer, english_tokenizer)
    for number in range(2):
        drawn = parallel.draw(number, rows=BLOCK, seed=1)
        expected = Counter(
            zip(
                map(tuple, encode_ids(tokenizer, drawn.texts)),
                map(tuple, encode_ids(tokenizer, drawn.english)),
                map(tuple, encode_ids(english_tokenizer, drawn.english)),
                strict=True,
            )
        )
        seen: Counter[tuple[tuple[int, ...], ...]] = Counter()
        for batch in block(batches_of, number):
            assert batch.english is not None
            assert batch.teacher_english is not None
            seen.update(
                zip(
                    rows_of(batch.text),
                    rows_of(batch.english),
                    rows_of(batch.teacher_english),
                    strict=True,
                )
            )
        assert seen == expected


def test_translations_lie_beside_their_texts(
    parallel: Corpus, tokenizer: Tokenizer, english_tokenizer: Tokenizer
) -> None:
    english_of = {
        tuple(ids): tuple(english)
        for language in ("de", "ru", "zh")
        for ids, english in zip(
            encode_ids(tokenizer, sentences(language)),
            encode_ids(english_tokenizer, sentences("en")),
            strict=True,
        )
    }
    for batch in block(stream(parallel, tokenizer, english_tokenizer), 0):
        assert batch.teacher_english is not None
        expected = [english_of[ids] for ids in rows_of(batch.text)]
        assert rows_of(batch.teacher_english) == expected


def test_texts_of_like_length_share_a_batch(mono: Corpus, tokenizer: Tokenizer) -> None:
    found = block(stream(mono, tokenizer, tokenizer), 0)
    spans = sorted((min(lengths_of(batch)), max(lengths_of(batch))) for batch in found)
    assert all(shorter[1] <= longer[0] for shorter, longer in pairwise(spans))
    assert len({span for span in spans}) > 3


def test_lengths_come_in_no_order(mono: Corpus, tokenizer: Tokenizer) -> None:
    longest = [max(lengths_of(batch)) for batch in block(stream(mono, tokenizer, tokenizer), 0)]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_monolingual_text_has_no_english_side(mono: Corpus, tokenizer: Tokenizer) -> None:
    batch = block(stream(mono, tokenizer, tokenizer), 0)[0]
    assert batch.english is None
    assert batch.teacher_english is None
    assert batch.padded_tokens == batch.text.ids.numel()


def test_padded_tokens_are_what_the_student_reads(
    parallel: Corpus, tokenizer: Tokenizer, english_tokenizer: Tokenizer
) -> None:
    batch = block(stream(parallel, tokenizer, english_tokenizer), 0)[0]
    assert batch.english is not None
    assert batch.padded_tokens == batch.text.ids.numel() + batch.english.ids.numel()


def test_from_any_cursor_on_the_batches_are_the_same(
    parallel: Corpus, tokenizer: Tokenizer, english_tokenizer: Tokenizer
) -> None:
    batches_of = stream(parallel, tokenizer, english_tokenizer)
    per_block = len(block(batches_of, 0))
    whole = list(islice(batches_of.since(Cursor()), 2 * per_block))
    assert whole[per_block - 1][0] == Cursor(1, 0)
    for done in (1, per_block - 1, per_block, per_block + 2):
        cursor = whole[done - 1][0]
        rest = list(islice(batches_of.since(cursor), len(whole) - done))
        assert all(same(*pair) for pair in zip(rest, whole[done:], strict=True))


def test_another_seed_and_another_block_give_other_batches(
    mono: Corpus, tokenizer: Tokenizer
) -> None:
    first, second = (
        next(stream(mono, tokenizer, tokenizer, seed=seed).since(Cursor())) for seed in (1, 2)
    )
    later = next(stream(mono, tokenizer, tokenizer).since(Cursor(1)))
    assert rows_of(first[1].text) != rows_of(second[1].text)
    assert rows_of(first[1].text) != rows_of(later[1].text)


def test_a_batch_moves_with_all_its_sides(
    parallel: Corpus, tokenizer: Tokenizer, english_tokenizer: Tokenizer
) -> None:
    batch = block(stream(parallel, tokenizer, english_tokenizer), 0)[0]
    moved = batch.to(torch.device("meta"))
    sides = (moved.text, moved.english, moved.teacher_english)
    assert all(side is not None and side.ids.is_meta and side.mask.is_meta for side in sides)
