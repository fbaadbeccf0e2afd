import math

import pytest
import torch
from tiny_world import LAYERS, World, sentences
from transformers import BertModel
from transformers.modeling_outputs import BaseModelOutput

from distill.batches import Tokens, load_tokenizer, tokenize
from distill.taps import QueryKeyTap
from distill.teacher import load_encoder, load_teacher


@pytest.fixture(scope="module")
def tokens(world: World) -> Tokens:
    tokenizer = load_tokenizer(world.teacher / "tokenizer.json", max_tokens=32)
    return tokenize(tokenizer, [sentences("de")[5], sentences("zh")[0]])


def run(encoder: BertModel, tokens: Tokens, **wanted: bool) -> BaseModelOutput:
    return encoder(input_ids=tokens.ids, attention_mask=tokens.mask.long(), **wanted)


@pytest.mark.parametrize("layers", [LAYERS, 2])
def test_scores_of_the_caught_pair_are_those_of_the_last_layer(
    world: World, tokens: Tokens, layers: int
) -> None:
    encoder = load_encoder(str(world.teacher), layers=layers).eval()
    tap = QueryKeyTap(encoder)
    with torch.inference_mode():
        attention = run(encoder, tokens, output_attentions=True).attentions[-1]
    caught = tap.take()
    width = caught.query.shape[-1]
    scores = caught.query @ caught.key.mT / math.sqrt(width)  # (B, A, T, T)
    hidden = ~tokens.mask[:, None, None, :]
    expected = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    torch.testing.assert_close(expected, attention, rtol=1e-5, atol=1e-6)


def test_what_is_taken_is_let_go_of(world: World, tokens: Tokens) -> None:
    encoder = load_teacher(str(world.teacher))
    tap = QueryKeyTap(encoder)
    run(encoder, tokens)
    first = tap.take()
    with pytest.raises(KeyError):
        tap.take()
    run(encoder, tokens)
    second = tap.take()
    assert torch.equal(second.query, first.query)
    assert torch.equal(second.key, first.key)


def test_a_removed_tap_catches_nothing(world: World, tokens: Tokens) -> None:
    encoder = load_teacher(str(world.teacher))
    tap = QueryKeyTap(encoder)
    tap.remove()
    run(encoder, tokens)
    with pytest.raises(KeyError):
        tap.take()


def test_gradient_flows_through_what_is_caught(world: World, tokens: Tokens) -> None:
    encoder = load_encoder(str(world.teacher), layers=2)
    tap = QueryKeyTap(encoder)
    run(encoder, tokens)
    caught = tap.take()
    (caught.query.sum() + caught.key.sum()).backward()
    last, below = encoder.encoder.layer[1].attention.self, encoder.encoder.layer[0]
    assert last.query.weight.grad is not None
    assert last.value.weight.grad is None
    assert below.output.dense.weight.grad is not None
