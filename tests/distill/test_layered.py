import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_encoder import roughen
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from distill.anatomy import anatomy
from distill.batches import Tokens
from distill.layered import LayeredConfig, LayeredEncoder
from distill.layers import DynamicConvolution
from distill.taps import Observer, Wants
from distill.teacher import EncoderError, encode, load_encoder, load_teacher

VOCABULARY = 60
SETTINGS = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
MIXED = ("dynamic-convolution", "attention", "feed-forward", "dynamic-convolution", "attention")


def layered(body: Sequence[str], **changes: object) -> LayeredEncoder:
    torch.manual_seed(1)
    attention = changes.pop("attention", "eager")
    config = LayeredConfig(body=[*body], **SETTINGS | changes)
    encoder = LayeredEncoder._from_config(config, attn_implementation=attention).eval()
    roughen(encoder)
    return encoder


def some_tokens(*lengths: int, room: int) -> Tokens:
    torch.manual_seed(2)
    mask = torch.arange(room) < torch.tensor(lengths)[:, None]
    return Tokens(torch.randint(5, VOCABULARY, mask.shape), mask)


def test_a_body_in_berts_order_is_bert_bit_for_bit() -> None:
    config = BertConfig(num_hidden_layers=3, **SETTINGS)
    bert = BertModel._from_config(config, attn_implementation="eager", add_pooling_layer=False)
    roughen(bert)
    tokens = some_tokens(16, 7, room=16)
    whole = layered(["transformer"] * 3)
    whole.load_state_dict(bert.state_dict())
    halves = layered(["attention", "feed-forward"] * 3)
    halves.load_state_dict({_in_halves(name): tensor for name, tensor in bert.state_dict().items()})
    expected = encode(bert.eval(), tokens).hidden
    assert torch.equal(encode(whole, tokens).hidden, expected)
    assert torch.equal(encode(halves, tokens).hidden, expected)


def _in_halves(name: str) -> str:
    if not name.startswith("encoder.layer."):
        return name
    number, rest = name.removeprefix("encoder.layer.").split(".", 1)
    return f"encoder.layer.{2 * int(number) + (not rest.startswith('attention'))}.{rest}"


def test_fused_attention_says_the_same() -> None:
    tokens = some_tokens(16, 7, room=16)
    plain = encode(layered(MIXED), tokens).hidden
    fused = encode(layered(MIXED, attention="sdpa"), tokens).hidden
    torch.testing.assert_close(fused[tokens.mask], plain[tokens.mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("body", [MIXED, ("dynamic-convolution",) * 4], ids=["mixed", "convolved"])
def test_padding_and_company_change_nothing(body: Sequence[str]) -> None:
    encoder = layered(body)
    tokens = some_tokens(5, 24, 1, room=24)
    together = encode(encoder, tokens).hidden
    for index, length in enumerate((5, 24, 1)):
        alone = Tokens(
            tokens.ids[index : index + 1, :length], tokens.mask[index : index + 1, :length]
        )
        found = encode(encoder, alone).hidden[0]
        torch.testing.assert_close(together[index, :length], found, rtol=1e-5, atol=2e-5)
    other = tokens.ids.masked_fill(~tokens.mask, 9)
    changed = encode(encoder, Tokens(other, tokens.mask)).hidden
    assert torch.equal(changed[tokens.mask], together[tokens.mask])


def slow_convolution(layer: DynamicConvolution, hidden: Tensor) -> Tensor:
    """The docstring's formulas for one unpadded text (T, H), a token and a head at a time."""
    state, (length, width) = layer.state_dict(), hidden.shape
    value = F.linear(hidden, state["value.weight"], state["value.bias"]) * torch.sigmoid(
        F.linear(hidden, state["gate.weight"], state["gate.bias"])
    )
    heads, taps, reach = layer.heads, layer.taps, layer.taps // 2

    def at(token: int) -> Tensor:
        return value[token] if 0 <= token < length else torch.zeros(width)

    out = torch.zeros(length, width)
    for token in range(length):
        around = sum(
            state["depthwise.weight"][:, 0, tap] * at(token + tap - reach) for tap in range(taps)
        )
        mixed = F.linear(around, state["pointwise.weight"], state["pointwise.bias"])
        logits = F.linear(mixed, state["kernel.weight"], state["kernel.bias"])
        weights = logits.view(heads, taps).softmax(-1)
        for head in range(heads):
            own = slice(head * width // heads, (head + 1) * width // heads)
            out[token, own] = sum(
                weights[head, tap] * at(token + tap - reach)[own] for tap in range(taps)
            )
    return out


@torch.no_grad()
def test_a_dynamic_convolution_is_what_its_formulas_say() -> None:
    layer = layered(["dynamic-convolution"]).encoder.layer[0].convolution
    hidden = torch.randn(2, 13, 32)
    lengths = (13, 6)
    real = (torch.arange(13) < torch.tensor(lengths)[:, None]).float().unsqueeze(-1)
    found = layer(hidden, real)
    for index, length in enumerate(lengths):
        expected = slow_convolution(layer, hidden[index, :length])
        torch.testing.assert_close(found[index, :length], expected, rtol=1e-4, atol=1e-5)


def test_a_dynamic_convolution_has_about_as_many_parameters_as_attention() -> None:
    config = LayeredConfig(
        body=["dynamic-convolution"], **SETTINGS | {"hidden_size": 768, "num_attention_heads": 12}
    )
    with torch.device("meta"):
        convolution = LayeredEncoder(config).encoder.layer[0]
    assert sum(p.numel() for p in convolution.parameters()) == pytest.approx(2.45e6, rel=0.01)


def test_gradient_reaches_every_parameter_of_a_body() -> None:
    encoder = layered([*MIXED, "transformer"]).train()
    encode(encoder, some_tokens(9, 4, room=9)).pooled.square().sum().backward()
    for name, parameter in encoder.encoder.named_parameters():
        assert parameter.grad is not None, name
        # a key's bias moves all scores of a query alike
        assert name.endswith("key.bias") or parameter.grad.abs().max() > 0, name


def test_anatomy_counts_sub_layers_and_knows_which_attend() -> None:
    parts = anatomy(layered(MIXED))
    assert (parts.depth, parts.attention_layers) == (5, (2, 5))
    assert parts.max_tokens == 40
    with pytest.raises(ValueError, match=r"attention of layer 1 is wanted; .* 2, 5"):
        Observer(layered(MIXED), Wants(attention=frozenset({1})))


def test_an_observer_sees_what_sub_layers_give() -> None:
    encoder, tokens = layered(MIXED), some_tokens(8, 3, room=8)
    view = Observer(encoder, Wants(frozenset(range(6)), frozenset({2})))(tokens)
    assert torch.equal(view.hidden[5], view.last_hidden)
    attention = encoder.encoder.layer[1].attention.self
    expected = attention.query(view.hidden[1]).view(2, 8, 4, 8).transpose(1, 2)
    assert torch.equal(view.attention[2].query, expected)


@pytest.mark.parametrize("rank", [None, 6])
def test_a_layered_encoder_is_saved_and_loaded_like_any_other(
    tmp_path: Path, rank: int | None
) -> None:
    encoder = layered(MIXED, embedding_rank=rank)
    encoder.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "lightmbert-layered"
    assert (config["body"], config["embedding_rank"]) == ([*MIXED], rank)
    tokens = some_tokens(16, 7, room=16)
    again = load_teacher(str(tmp_path))
    assert torch.equal(encode(again, tokens).hidden, encode(encoder, tokens).hidden)
    bottom = load_encoder(str(tmp_path), layers=3).eval()
    expected = Observer(encoder, Wants(frozenset({3})))(tokens).hidden[3]
    assert torch.equal(encode(bottom, tokens).hidden, expected)
    with pytest.raises(EncoderError, match="has no masked-language head"):
        load_encoder(str(tmp_path), pieces=True)


def test_a_factorised_table_looks_up_rows_of_its_product() -> None:
    table = layered(["transformer"], embedding_rank=6).embeddings.word_embeddings
    ids = torch.randint(0, VOCABULARY, (2, 5))
    torch.testing.assert_close(table(ids), table.weight[ids])
    assert table.weight.shape == (VOCABULARY, 32)
