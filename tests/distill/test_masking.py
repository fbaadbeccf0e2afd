from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_encoder import SPECIAL, tiny_tokenizer
from tiny_world import World
from tokenizers import Tokenizer, models

from distill import batches
from distill.batches import Batch, Batches, Cursor, load_tokenizer
from distill.corpus import load_corpus
from distill.masking import NOT_ASKED, MaskedIds, Masking, MaskingError
from distill.tables.text import CorpusTable

CLS, SEP, MASK = (SPECIAL.index(piece) for piece in ("[CLS]", "[SEP]", "[MASK]"))
PIECES = tiny_tokenizer().get_vocab_size()


def texts_of(lengths: list[int]) -> list[list[int]]:
    """Texts of so many plain pieces, framed."""
    rng = np.random.default_rng(3)
    return [
        [CLS, *rng.integers(len(SPECIAL), PIECES, size=length).tolist(), SEP] for length in lengths
    ]


def masked(texts: list[list[int]], *, block: int = 0) -> MaskedIds:
    return Masking(tiny_tokenizer()).mask(texts, seed=[1, block])


@pytest.mark.parametrize(("pieces", "asked"), [(0, 0), (1, 1), (6, 1), (10, 2), (20, 3), (100, 15)])
def test_fifteen_of_a_hundred_pieces_of_each_text_are_asked_for(pieces: int, asked: int) -> None:
    texts = texts_of([pieces, 40, pieces])
    for index in (0, 2):
        labels = np.array(masked(texts).labels[index])
        assert (labels != NOT_ASKED).sum() == asked
        found = np.flatnonzero(labels != NOT_ASKED)
        assert labels[found].tolist() == np.array(texts[index])[found].tolist()


def test_frames_and_unknown_pieces_are_neither_asked_for_nor_drawn() -> None:
    texts = [[CLS, SPECIAL.index("[UNK]"), *text[1:]] for text in texts_of([50] * 200)]
    found = masked(texts)
    for text, ids, labels in zip(texts, found.ids, found.labels, strict=True):
        assert len(text) == len(ids) == len(labels)
        assert [labels[0], labels[1], labels[-1]] == [NOT_ASKED] * 3
        changed = [new for new, old in zip(ids, text, strict=True) if new != old]
        assert all(new == MASK or new >= len(SPECIAL) for new in changed)


def test_of_the_asked_eight_in_ten_are_hidden_one_replaced_and_one_stays() -> None:
    texts = texts_of([100] * 400)
    found = masked(texts)
    old, new, labels = (np.concatenate(part) for part in (texts, found.ids, found.labels))
    asked = labels != NOT_ASKED
    assert (new[~asked] == old[~asked]).all()
    shares = [
        (new[asked] == MASK).mean(),
        ((new != MASK) & (new != old))[asked].mean(),
        (new == old)[asked].mean(),
    ]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.015)


def test_what_is_hidden_is_a_function_of_seed_and_block() -> None:
    texts = texts_of([30] * 5)
    assert masked(texts) == masked(texts)
    assert masked(texts) != masked(texts, block=1)


def test_every_place_in_a_text_is_asked_for_alike() -> None:
    labels = np.array(masked(texts_of([20] * 4000)).labels)[:, 1:-1]
    shares = (labels != NOT_ASKED).mean(axis=0)
    assert shares == pytest.approx(np.full(20, 0.15), abs=0.025)


def test_a_tokenizer_without_a_mask_piece_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "dog": 1}, unk_token="[UNK]"))
    with pytest.raises(MaskingError, match=r"no mask piece; known: \[MASK\], <mask>"):
        Masking(tokenizer)


def test_a_batch_brings_its_masked_text_and_languages(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BLOCK_TEXTS", 60)
    tokenizer = load_tokenizer(world.teacher / "tokenizer.json", max_tokens=24)
    corpus = load_corpus([CorpusTable(path=world.mono)], exponent=0.5)

    def some(masking: Masking | None) -> list[Batch]:
        drawn = Batches(corpus, tokenizer, tokenizer, max_batch_tokens=300, seed=1, masking=masking)
        return [batch for (_, batch), _ in zip(drawn.since(Cursor()), range(6), strict=False)]

    assert all(batch.masked is None for batch in some(None))
    for batch, plain in pairwise([some(Masking(tokenizer)), some(None)]):
        for one, other in zip(batch, plain, strict=True):
            assert torch.equal(one.text.ids, other.text.ids)
    for batch in some(Masking(tokenizer)):
        assert batch.masked is not None
        asked = batch.masked.labels != NOT_ASKED
        assert asked.any(dim=1).all()
        assert not (asked & ~batch.text.mask).any()
        assert torch.equal(batch.masked.labels[asked], batch.text.ids[asked])
        assert torch.equal(batch.masked.ids[~asked], batch.text.ids[~asked])
        moved = batch.to(torch.device("meta"))
        assert moved.masked is not None
        assert all(
            each.is_meta for each in (moved.masked.ids, moved.masked.labels, moved.languages)
        )
        chinese = [
            any("\u4e00" <= character <= "\u9fff" for character in tokenizer.decode(ids))
            for ids in batch.text.ids.tolist()
        ]
        named = [corpus.languages[code] == "zh" for code in batch.languages.tolist()]
        assert chinese == named
