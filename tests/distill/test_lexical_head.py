"""Pieces speak for themselves: a lexical head adds up what each says, whatever is around it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoder import (
    SPECIAL,
    a_head,
    a_lexical_head,
    tiny_tokenizer,
    write_bert,
    write_encoder,
)
from tokenizers import Tokenizer

from distill.batches import Tokens, padded
from distill.encoders import TorchEncoder
from distill.export import Card, export_student
from distill.heads import HeadError, LexicalHead, load_heads, save_head
from distill.lexical_head import vocabulary_of

THREE_PIECES = torch.tensor([[0.0, 0.0], [2.0, -2.0], [-0.5, 0.5]])
TOKENIZER = tiny_tokenizer()
HEAD = a_lexical_head(TOKENIZER)
Text = st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), min_size=1, max_size=9)


def of_three_pieces() -> LexicalHead:
    return LexicalHead(
        task="language",
        labels=("one", "two"),
        problem_type="single",
        table=THREE_PIECES,
        vocabulary="abc",
    )


def test_the_evidence_of_three_pieces_adds_up() -> None:
    found = of_three_pieces()(padded([[0, 1, 2, 2], [2], [0]]))
    assert found.tolist() == [[1.0, -1.0], [-0.5, 0.5], [0.0, 0.0]]


@given(text=Text, company=st.lists(Text, max_size=4), filler=st.integers(0, 9))
def test_padding_and_company_say_nothing(
    text: list[int], company: list[list[int]], filler: int
) -> None:
    alone = HEAD(padded([text]))
    tokens = padded([text, *company, [filler] * 12])
    filled = torch.where(tokens.mask, tokens.ids, filler)
    torch.testing.assert_close(HEAD(Tokens(filled, tokens.mask))[:1], alone)


@given(text=Text, random=st.randoms(use_true_random=False))
def test_the_order_of_pieces_says_nothing(text: list[int], random: object) -> None:
    shuffled = list(text)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # a random.Random
    torch.testing.assert_close(HEAD(padded([shuffled])), HEAD(padded([text])))


@given(text=Text, special=st.lists(st.integers(0, len(SPECIAL) - 1), max_size=5))
def test_special_tokens_count_nothing(text: list[int], special: list[int]) -> None:
    torch.testing.assert_close(HEAD(padded([special + text])), HEAD(padded([text])))


def test_the_layer_that_is_exported_gives_the_logits_of_the_head() -> None:
    tokens = padded([[5, 6, 7], [8]])
    found = HEAD.as_layer()(tokens.ids, tokens.mask.long())
    torch.testing.assert_close(found, HEAD(tokens))


def test_a_saved_head_is_loaded_as_it_was(tmp_path: Path) -> None:
    linear, lexical = a_head("topic"), replace(HEAD, provenance={"data": "f1a9"})
    save_head(tmp_path, linear)
    save_head(tmp_path, lexical)
    found = load_heads(tmp_path)
    assert list(found) == ["language", "topic"]
    loaded = found["language"]
    assert isinstance(loaded, LexicalHead)
    assert torch.equal(loaded.table, lexical.table)
    assert replace(loaded, table=lexical.table) == lexical


def test_a_head_from_before_there_were_kinds_is_linear(tmp_path: Path) -> None:
    save_head(tmp_path, a_head("topic"))
    stated = tmp_path / "heads" / "topic.json"
    told = json.loads(stated.read_text())
    assert told.pop("kind") == "linear"
    stated.write_text(json.dumps(told))
    assert load_heads(tmp_path)["topic"].as_task() == a_head("topic").as_task()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"table": torch.zeros(9, 2)}, r"3 labels and a table \(9, 2\)"),
        ({"table": torch.zeros(9, 3, dtype=torch.float16)}, "must be float32"),
        ({"labels": ("a", "b", "a")}, "labels repeat"),
    ],
)
def test_a_head_that_does_not_hold_together_is_refused(
    changes: dict[str, object], said: str
) -> None:
    with pytest.raises(HeadError, match=said):
        replace(HEAD, **changes)


def test_tensors_of_a_linear_head_are_refused(tmp_path: Path) -> None:
    save_head(tmp_path, HEAD)
    save_head(tmp_path, a_head("topic"))
    heads = tmp_path / "heads"
    (heads / "topic.safetensors").replace(heads / "language.safetensors")
    with pytest.raises(HeadError, match=r"language.*table"):
        load_heads(tmp_path)


def test_an_encoder_of_more_pieces_is_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder")
    save_head(folder, replace(HEAD, table=HEAD.table[:-1]))
    pieces = len(HEAD.table)
    said = f"head 'language' knows {pieces - 1} pieces; the encoder's table has {pieces}"
    refused_by_both(folder, said)


def test_another_tokenizer_of_as_many_pieces_is_refused(tmp_path: Path) -> None:
    renamed = tiny_tokenizer().to_str().replace("▁hund", "▁katt")
    other = Tokenizer.from_str(renamed)
    assert other.get_vocab_size() == len(HEAD.table)
    write_bert(tmp_path / "encoder", other)
    save_head(tmp_path / "encoder", HEAD)
    said = rf"pieces of another tokenizer \({HEAD.vocabulary}\) .* \({vocabulary_of(other)}\)"
    refused_by_both(tmp_path / "encoder", said)


def refused_by_both(folder: Path, said: str) -> None:
    with pytest.raises(HeadError, match=said):
        TorchEncoder(folder, max_tokens=16)
    card = Card("tiny", "1", "Apache-2.0", ("en",), 16, ("a dog",), "r.toml", "0" * 64)
    with pytest.raises(HeadError, match=said):
        export_student(folder, folder.parent / "model", card=card, min_cosine=0.9999)
