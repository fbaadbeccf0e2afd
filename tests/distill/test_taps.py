import math
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_encoder import FAMILIES, FAMILY_LAYERS, FAMILY_TOKENS, TEXTS, write_family
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput

from distill.anatomy import Encoder, anatomy
from distill.batches import Tokens, load_tokenizer, tokenize
from distill.taps import Observer, Projections, Wants, check_wants
from distill.teacher import encode, load_encoder, load_teacher, tokenizer_file

EVERYTHING = Wants(
    hidden=frozenset(range(FAMILY_LAYERS + 1)),
    attention=frozenset(range(1, FAMILY_LAYERS + 1)),
    pieces=True,
)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taps") / request.param
    write_family(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taps") / "one"
    write_family(folder, "bert")
    return folder


def tokens_of(folder: Path) -> Tokens:
    tokenizer = load_tokenizer(tokenizer_file(str(folder)), max_tokens=FAMILY_TOKENS)
    return tokenize(tokenizer, TEXTS)


def run(encoder: Encoder, tokens: Tokens, **wanted: bool) -> BaseModelOutput:
    return encoder(input_ids=tokens.ids, attention_mask=tokens.mask.long(), **wanted)


def by_head(projected: Tensor) -> Tensor:
    texts, count, width = projected.shape
    return projected.view(texts, count, 4, width // 4).transpose(1, 2)


def linear_of_inputs(encoder: Encoder, number: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Query, key and value of one layer, written out from the family's weights."""
    family, state = encoder.config.model_type, encoder.state_dict()
    if family == "modernbert":
        fused = state[f"layers.{number - 1}.attn.Wqkv.weight"].chunk(3)
        parts = zip(("query", "key", "value"), fused, (None,) * 3, strict=True)
    else:
        prefix, names = f"encoder.layer.{number - 1}.attention.self", ("query", "key", "value")
        if family == "distilbert":
            prefix = f"transformer.layer.{number - 1}.attention"
            names = ("q_lin", "k_lin", "v_lin")
        parts = (
            (part, state[f"{prefix}.{name}.weight"], state[f"{prefix}.{name}.bias"])
            for part, name in zip(("query", "key", "value"), names, strict=True)
        )
    return {
        part: lambda hidden, weight=weight, bias=bias: by_head(F.linear(hidden, weight, bias))
        for part, weight, bias in parts
    }


@torch.inference_mode()
def test_hidden_states_are_those_of_the_model(folder: Path) -> None:
    teacher, tokens = load_teacher(str(folder), pieces=True), tokens_of(folder)
    expected = run(teacher, tokens, output_hidden_states=True)
    view = Observer(teacher, EVERYTHING)(tokens)
    assert torch.equal(view.last_hidden, expected.last_hidden_state)
    for number, hidden in enumerate(expected.hidden_states):
        assert torch.equal(view.hidden[number], hidden)
    assert torch.equal(view.mask, tokens.mask)
    assert torch.equal(view.pooled, encode(teacher, tokens).pooled)


@torch.inference_mode()
def test_projections_are_the_linear_layers_of_what_comes_in(folder: Path) -> None:
    teacher, tokens = load_teacher(str(folder)), tokens_of(folder)
    view = Observer(teacher, Wants(EVERYTHING.hidden, EVERYTHING.attention))(tokens)
    for number in EVERYTHING.attention:
        incoming = view.hidden[number - 1]
        if teacher.config.model_type == "modernbert":  # it normalises before attention
            incoming = teacher.layers[number - 1].attn_norm(incoming)
        for part, linear in linear_of_inputs(teacher, number).items():
            found = getattr(view.attention[number], part)
            torch.testing.assert_close(found, linear(incoming), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_scores_give_the_attention_of_encoders_that_do_not_rotate(folder: Path) -> None:
    teacher, tokens = load_teacher(str(folder)), tokens_of(folder)
    expected = run(teacher, tokens, output_attentions=True).attentions
    view = Observer(teacher, Wants(attention=EVERYTHING.attention))(tokens)
    alike = []
    for number, pair in view.attention.items():
        scores = pair.query @ pair.key.mT / math.sqrt(pair.query.shape[-1])
        weights = scores.masked_fill(~tokens.mask[:, None, None, :], -math.inf).softmax(-1)
        alike.append(torch.allclose(weights, expected[number - 1], rtol=1e-4, atol=1e-5))
    assert alike == [not anatomy(teacher).rotary] * FAMILY_LAYERS


@torch.inference_mode()
def test_fused_attention_shows_the_same(folder: Path) -> None:
    tokens = tokens_of(folder)
    plain, fused = (
        Observer(load_teacher(str(folder), pieces=True, attention=kind), EVERYTHING)(tokens)
        for kind in ("eager", "sdpa")
    )
    for number in EVERYTHING.hidden:
        found, expected = (view.hidden[number][tokens.mask] for view in (fused, plain))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for number in EVERYTHING.attention:
        found, expected = (
            view.attention[number].value.transpose(1, 2)[tokens.mask] for view in (fused, plain)
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_only_what_is_wanted_is_hooked(bert: Path) -> None:
    teacher = load_teacher(str(bert))
    wants = Wants(hidden=frozenset({0, 3}), attention=frozenset({4}))
    observer = Observer(teacher, wants)
    layers = teacher.encoder.layer
    hooked = {module for module in teacher.modules() if module._forward_hooks}
    last = layers[3].attention.self
    assert hooked == {teacher.embeddings, layers[2], last.query, last.key, last.value}
    view = observer(tokens_of(bert))
    assert (view.hidden.keys(), view.attention.keys()) == ({0, 3}, {4})
    assert view.piece_logits is None
    observer.remove()
    assert not any(module._forward_hooks for module in teacher.modules())


def test_two_observers_of_one_encoder_do_not_disturb_each_other(bert: Path) -> None:
    teacher, tokens = load_teacher(str(bert)), tokens_of(bert)
    first = Observer(teacher, Wants(hidden=frozenset({1})))
    second = Observer(teacher, Wants(hidden=frozenset({1, 2})))
    assert torch.equal(first(tokens).hidden[1], second(tokens).hidden[1])
    second.remove()
    assert first(tokens).hidden.keys() == {1}


def test_what_was_seen_is_let_go_of(bert: Path) -> None:
    teacher, tokens = load_teacher(str(bert)), tokens_of(bert)
    observer = Observer(teacher, Wants(hidden=frozenset({1}), attention=frozenset({2})))
    view = observer(tokens)
    seen = [weakref.ref(view.hidden[1]), weakref.ref(view.attention[2].query._base)]
    assert None not in [each() for each in seen]
    del view
    assert [each() for each in seen] == [None, None]


def test_wants_join() -> None:
    one = Wants(hidden=frozenset({1}), attention=frozenset({2}))
    other = Wants(hidden=frozenset({3}), pieces=True)
    assert one | other == Wants(frozenset({1, 3}), frozenset({2}), pieces=True)


@pytest.mark.parametrize(
    ("wants", "why"),
    [
        (Wants(hidden=frozenset({5})), "hidden state 5 is wanted of 4 layers"),
        (Wants(attention=frozenset({0})), "attention of layer 0 is wanted; .* 1, 2, 3, 4"),
        (Wants(pieces=True), "load the encoder with pieces=True"),
    ],
    ids=["hidden", "attention", "pieces"],
)
def test_what_an_encoder_cannot_show_is_refused(bert: Path, wants: Wants, why: str) -> None:
    teacher = load_teacher(str(bert))
    with pytest.raises(ValueError, match=why):
        check_wants(wants, anatomy(teacher))
    with pytest.raises(ValueError, match=why):
        Observer(teacher, wants)


def test_gradient_flows_through_what_is_seen(bert: Path) -> None:
    encoder = load_encoder(str(bert), layers=2)
    view = Observer(encoder, Wants(attention=frozenset({2})))(tokens_of(bert))
    pair: Projections = view.attention[2]
    (pair.query.sum() + pair.key.sum()).backward()
    last, below = encoder.encoder.layer[1].attention.self, encoder.encoder.layer[0]
    assert last.query.weight.grad is not None
    assert last.value.weight.grad is None
    assert below.output.dense.weight.grad is not None


def test_pieces_of_a_frozen_table_train_the_head_and_not_the_table(bert: Path) -> None:
    encoder = load_encoder(str(bert), pieces=True)
    encoder.embeddings.requires_grad_(False)
    logits = Observer(encoder, Wants(pieces=True))(tokens_of(bert)).piece_logits
    assert logits is not None
    logits.square().sum().backward()
    assert encoder.embeddings.word_embeddings.weight.grad is None
    assert encoder.piece_head.bias.grad is not None


def test_a_compiled_body_is_seen_into_under_autocast(bert: Path) -> None:
    tokens = tokens_of(bert)
    plain, compiled = (load_teacher(str(bert), pieces=True) for _ in range(2))
    expected, observer = Observer(plain, EVERYTHING), Observer(compiled, EVERYTHING)
    module: nn.Module = anatomy(compiled).body
    module.compile(backend="eager", dynamic=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for texts in (6, 2):
            some = Tokens(tokens.ids[:texts], tokens.mask[:texts])
            found, wanted = observer(some), expected(some)
            torch.testing.assert_close(found.last_hidden, wanted.last_hidden)
            for number in EVERYTHING.hidden:
                torch.testing.assert_close(found.hidden[number], wanted.hidden[number])
            for number in EVERYTHING.attention:
                query = found.attention[number].query
                torch.testing.assert_close(query, wanted.attention[number].query)
                assert query.dtype == torch.bfloat16
