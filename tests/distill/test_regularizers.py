import math
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from tiny_encoder import write_encoder
from transformers import DistilBertConfig, DistilBertModel, PreTrainedModel

from distill.layered import LayeredConfig, LayeredEncoder
from distill.regularizers import FeatureDrop, LayerDrop, dropout_at, kept_positions, r_drop_loss
from distill.teacher import load_encoder

IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 10, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture
def bert(tmp_path: Path) -> PreTrainedModel:
    return load_encoder(str(write_encoder(tmp_path / "bert"))).train()


def distilbert() -> PreTrainedModel:
    config = DistilBertConfig(
        vocab_size=32, dim=16, hidden_dim=24, n_heads=2, n_layers=2, dropout=0, attention_dropout=0
    )
    return DistilBertModel(config).train()


def modernbert() -> PreTrainedModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, by what its module imports
        from transformers import ModernBertConfig, ModernBertModel
    config = ModernBertConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
        attn_implementation="eager",
        reference_compile=False,
    )
    return ModernBertModel(config).train()


def layered() -> PreTrainedModel:
    config = LayeredConfig(
        body=["dynamic-convolution", "transformer"],
        vocab_size=32,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=24,
        hidden_dropout_prob=0.0,
        attn_implementation="eager",
    )
    return LayeredEncoder(config).train()


MADE = {"distilbert": distilbert, "modernbert": modernbert, "layered": layered}


def hidden(encoder: PreTrainedModel) -> torch.Tensor:
    return encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state


def test_r_drop_matches_a_hand_computed_value_and_is_symmetric() -> None:
    # (3/4, 1/4) against (1/2, 1/2): (KL + KL) / 2 = (1/4 ln(3/2) - 1/4 ln(1/2)) / 2
    a, b = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = torch.tensor((0.25 * math.log(1.5) - 0.25 * math.log(0.5)) / 2)
    torch.testing.assert_close(r_drop_loss(a, b), expected)
    torch.testing.assert_close(r_drop_loss(b, a), expected)
    assert r_drop_loss(a, a).item() == 0


def test_r_drop_gives_gradient_to_both_passes() -> None:
    a, b = (torch.randn(3, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(r_drop_loss, (a, b))


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "layered"])
def test_layers_are_skipped_in_training_and_never_in_evaluation(
    bert: PreTrainedModel, family: str
) -> None:
    encoder = MADE[family]() if family in MADE else bert
    whole = hidden(encoder)
    names = list(encoder.state_dict())
    with LayerDrop(encoder, 0.5):
        torch.manual_seed(0)
        found = [hidden(encoder) for _ in range(40)]
        assert sum(torch.equal(each, whole) for each in found) in range(3, 20)  # about a quarter
        assert len({round(each[0, 0, 0].item(), 5) for each in found}) == 4  # of two layers
        encoder.eval()
        assert torch.equal(hidden(encoder), whole)
        assert list(encoder.state_dict()) == names
        encoder.train()
    assert torch.equal(hidden(encoder), whole)


def test_a_layer_that_is_always_skipped_gets_no_gradient(bert: PreTrainedModel) -> None:
    with LayerDrop(bert, 1 - 1e-9):
        hidden(bert).sum().backward()
    assert bert.encoder.layer[0].output.dense.weight.grad is None
    assert bert.embeddings.word_embeddings.weight.grad is not None


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "layered"])
def test_features_are_dropped_in_training_alone_and_until_removed(
    bert: PreTrainedModel, family: str
) -> None:
    encoder = MADE[family]() if family in MADE else bert
    whole = hidden(encoder)
    drop = FeatureDrop(encoder, 0.3)
    assert not torch.equal(hidden(encoder), hidden(encoder))
    encoder.eval()
    assert torch.equal(hidden(encoder), whole)
    encoder.train()
    drop.remove()
    assert torch.equal(hidden(encoder), whole)


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_features_are_dropped_at_every_place(bert: PreTrainedModel, family: str) -> None:
    encoder = MADE[family]() if family in MADE else bert
    seen: dict[str, torch.Tensor] = {}
    names = {
        "bert": ("attention.self.value", "output.dense"),
        "distilbert": ("attention.v_lin", "ffn.lin2"),
        "modernbert": ("attn.Wqkv", "mlp.Wo"),
    }[family]
    layers = {"bert": "encoder.layer", "distilbert": "transformer.layer", "modernbert": "layers"}
    layer = encoder.get_submodule(f"{layers[family]}.0")
    with FeatureDrop(encoder, 0.5):
        layer.get_submodule(names[0]).register_forward_hook(
            lambda module, inputs, output: seen.update(projected=output)
        )
        layer.get_submodule(names[1]).register_forward_hook(
            lambda module, inputs, output: seen.update(activation=inputs[0])
        )
        hidden(encoder)
    for place, tensor in seen.items():
        assert 0.3 < (tensor == 0).float().mean().item() < 0.7, place
    assert seen.keys() == {"projected", "activation"}


def test_attention_weights_are_dropped(bert: PreTrainedModel) -> None:
    whole = bert(input_ids=IDS, attention_mask=MASK, output_attentions=True).attentions[0]
    with FeatureDrop(bert, 0.5):
        dropout = bert.encoder.layer[0].attention.self.dropout
        assert dropout.p == 0.5
        assert (dropout(whole) == 0).float().mean() > (whole == 0).float().mean() + 0.2
    assert dropout.p == 0.0


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_a_probability_that_is_none_is_refused(bert: PreTrainedModel, probability: float) -> None:
    for kind in (LayerDrop, FeatureDrop):
        with pytest.raises(ValueError, match=f"below 1, got {probability}"):
            kind(bert, probability)


def test_dropout_is_changed_for_a_while(bert: PreTrainedModel) -> None:
    whole = hidden(bert)
    with dropout_at(bert, 0.2):
        assert not torch.equal(hidden(bert), whole)
    assert torch.equal(hidden(bert), whole)
    with pytest.raises(ZeroDivisionError), dropout_at(bert, 0.2):
        raise ZeroDivisionError
    assert torch.equal(hidden(bert), whole)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_views_differ_in_attention_whichever_way_it_is_computed(
    tmp_path: Path, attention: Literal["eager", "sdpa"]
) -> None:
    folder = write_encoder(tmp_path / "bert")
    encoder = load_encoder(str(folder), attention=attention).train()
    part = encoder.encoder.layer[0].attention.self
    given = torch.randn(2, 5, encoder.config.hidden_size)
    whole = part(given)[0]
    with dropout_at(encoder, 0.5):
        assert not torch.equal(part(given)[0], whole)
    assert torch.equal(part(given)[0], whole)


def test_tokens_are_deleted_at_the_rate_asked_for_but_not_the_frame() -> None:
    random = np.random.default_rng(0)
    kept = [
        kept_positions(22, probability=0.3, keep_whole=0.25, random=random, always=[10])
        for _ in range(400)
    ]
    whole = sum(len(each) == 22 for each in kept) / 400
    assert 0.18 < whole < 0.33
    parted = [each for each in kept if len(each) < 22]
    assert all({0, 10, 21} <= set(each) for each in parted)
    assert all(each == sorted(each) for each in parted)
    assert 0.27 < 1 - np.mean([(len(each) - 3) / 19 for each in parted]) < 0.33
