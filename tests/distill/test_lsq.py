"""Learned rounding: its values and gradients by hand, and what it wins on a hard encoder."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_encoder import (
    LAYERS,
    TEXTS,
    a_head,
    tiny_tokenizer,
    write_encoder,
    write_encoder_with_heads,
)
from tiny_world import recipe
from torch import nn

from app.errors import LightMBERTError, VariantError
from app.runtime.artifact import load_manifest
from app.runtime.cpus import VNNI, cpu_features
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer, pad
from distill import qat
from distill.batches import Tokens, tokenize
from distill.config import RecipeError
from distill.export import Card, export_student
from distill.heads import save_head
from distill.learned_graph import with_steps
from distill.lsq import Learned, LearnedStep, RoundedLinear, activation_step, learned, weight_step
from distill.parity import ParityError
from distill.rounding import RoundingError, attach, detach, products
from distill.tables.qat import QatTable
from distill.teacher import encode, load_encoder, load_teacher
from distill.variants import source_of
from distill.watch import DivergedError
from distill.word_table import QuantizeError

WITH_VNNI = pytest.mark.skipif(not cpu_features() & VNNI, reason="a processor without VNNI")


def step_of(size: float, *, negative: int = 2, positive: int = 3) -> LearnedStep:
    return LearnedStep(torch.tensor(size), negative=negative, positive=positive)


def test_values_are_rounded_to_steps_and_cut_at_the_ends() -> None:
    values = torch.tensor([[0.2, 0.3, -0.76, 9.0, -9.0]])
    found = step_of(0.5)(values)
    assert torch.equal(found, torch.tensor([[0.0, 0.5, -1.0, 1.5, -1.0]]))
    assert torch.equal(step_of(0.5).whole(values), torch.tensor([[0, 1, -2, 3, -2]]))


def test_gradients_are_those_of_the_paper() -> None:
    values = torch.tensor([[0.2, 0.3, 9.0, -9.0]], requires_grad=True)
    rounding = step_of(0.5)
    rounding(values).sum().backward()
    # within: 1 to the value, round(v/s) - v/s to the step; beyond: 0, and Qp or -Qn
    assert torch.equal(values.grad, torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    expected = (0 - 0.4) + (1 - 0.6) + 3 - 2
    assert rounding.step.grad.item() == pytest.approx(expected / math.sqrt(4 * 3), rel=1e-5)


def test_each_row_of_a_weight_has_a_step_that_reaches_its_peak() -> None:
    weight = torch.tensor([[1.0, -0.5], [0.02, 0.01], [0.0, 0.0]])
    rounding = weight_step(weight, largest=127, cut=0.0)
    assert rounding.size.flatten().tolist()[:2] == pytest.approx([1 / 127, 0.02 / 127])
    assert (rounding(weight) - weight).abs().max() <= 0.5 / 127
    assert rounding(weight)[2].tolist() == [0.0, 0.0]


def test_an_activation_says_zero_exactly_and_wastes_no_steps() -> None:
    gelu = torch.nn.functional.gelu(torch.linspace(-6, 6, 10_001))
    rounding = activation_step(gelu, cut=0.0)
    assert (rounding.negative, rounding.positive) == (7, 248)
    assert rounding(torch.zeros(1, 3)).tolist() == [[0.0, 0.0, 0.0]]
    assert (rounding(gelu[None]) - gelu).abs().max() <= 0.51 * rounding.size


def test_a_cut_leaves_the_few_largest_out() -> None:
    values = torch.cat([torch.linspace(-1, 1, 999), torch.tensor([1000.0])])
    assert activation_step(values, cut=0.0).size > 3
    assert activation_step(values, cut=0.01).size < 0.01


def test_a_loud_channel_is_seen_however_many_tokens_there_are() -> None:
    values = torch.zeros(3000, 400)
    values[7, 1] = 51.0
    assert activation_step(values, cut=0.0).size.item() == pytest.approx(51 / 255)


def test_values_all_zero_have_a_step() -> None:
    rounding = activation_step(torch.zeros(10), cut=0.0)
    assert torch.isfinite(rounding(torch.ones(1, 2))).all()


def test_a_product_is_what_its_layers_multiply_by() -> None:
    torch.manual_seed(0)
    shared = activation_step(torch.randn(2, 9, 4), cut=0.0)
    linears = [nn.Linear(4, 3) for _ in range(2)]
    layers = [
        RoundedLinear(linear, shared, weight_step(linear.weight, largest=63, cut=0.0))
        for linear in linears
    ]
    product = learned(layers)
    values = torch.randn(2, 9, 4)
    whole = (values / product.scale).round().add(product.zero).clamp(0, 255) - product.zero
    joined = (whole * product.scale) @ (product.weight * product.weight_scales)
    expected = torch.cat([layer(values) - layer.linear.bias for layer in layers], dim=-1)
    torch.testing.assert_close(joined, expected)


def make_hard(folder: Path) -> None:
    """Two channels leave a norm loud, and the next weight takes them back: one step suits none."""
    encoder = load_encoder(str(folder))
    loud = torch.ones(32)
    loud[::16] = 25.0
    with torch.no_grad():
        for layer in encoder.encoder.layer:
            norm = layer.attention.output.LayerNorm
            norm.weight *= loud
            norm.bias *= loud
            layer.intermediate.dense.weight /= loud
    encoder.save_pretrained(folder)


def exported(encoder: Path, folder: Path) -> None:
    card = Card("tiny", "1", "Apache-2.0", ("en",), 48, TEXTS, "r.toml", "0" * 64)
    export_student(encoder, folder, card=card, min_cosine=0.999)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plain")
    exported(write_encoder_with_heads(root / "encoder"), root / "model")
    return root


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("qat")
    make_hard(write_encoder_with_heads(root / "encoder"))
    exported(root / "encoder", root / "model")
    (root / "text").mkdir()
    (root / "text" / "en.txt").write_text("\n".join(TEXTS))
    return root


def table(hard: Path, **changes: object) -> QatTable:
    settings = {
        "encoder": hard / "encoder",
        "model_dir": hard / "model",
        "variant": "int8-avx2",
        "form": "fused",
        "word_table_block": "row",
        "corpus": [{"path": hard / "text"}],
        "exponent": 0.0,
        "max_tokens": 48,
        "batch_texts": 8,
        "steps": 60,
        "warmup_steps": 5,
        "learning_rate": 5e-4,
        "step_learning_rate": 0.03,
        "hidden_weight": 0.1,
        "pooled_weight": 1.0,
        "calibration_batches": 2,
        "cut": 0.0,
        "min_cosine": 0.9,
        "max_probability_error": 1.0,
        "keep_fp32": True,
        "parity_texts": TEXTS,
    }
    return QatTable.model_validate(settings | changes)


def batches() -> Iterator[Tokens]:
    tokenizer = tiny_tokenizer()
    while True:
        yield tokenize(tokenizer, TEXTS)


def distance(hard: Path, encoder: nn.Module) -> float:
    tokens = next(batches())
    with torch.inference_mode():
        one = nn.functional.normalize(encode(load_teacher(str(hard / "encoder")), tokens).pooled)
        other = nn.functional.normalize(encode(encoder, tokens).pooled)
    return float((1 - (one * other).sum(1)).mean())


def test_learning_comes_nearer_to_full_precision_than_rounding(hard: Path) -> None:
    far = near = math.nan
    for step, (_, encoder) in enumerate(qat.learn_rounding(table(hard), batches())):
        if step == 0:
            far = distance(hard, encoder)
        if step == 60:
            near = distance(hard, encoder)
            break
    assert far > 5e-4
    assert near < 0.5 * far


def test_what_is_frozen_stays_and_steps_move(hard: Path) -> None:
    learning = qat.learn_rounding(table(hard, steps=3, warmup_steps=1), batches())
    _, encoder = next(learning)
    words = encoder.embeddings.word_embeddings.weight.clone()
    sizes = [part.step.clone() for part in encoder.modules() if isinstance(part, LearnedStep)]
    next(learning)
    _, encoder = next(learning)
    assert torch.equal(encoder.embeddings.word_embeddings.weight, words)
    moved = [part.step for part in encoder.modules() if isinstance(part, LearnedStep)]
    assert len(moved) == 10 * LAYERS  # 4 inputs and 6 weights a layer
    assert all(not torch.equal(a, b) for a, b in zip(sizes, moved, strict=True))


def test_taking_rounding_out_leaves_plain_layers_with_their_weights(tmp_path: Path) -> None:
    encoder = load_encoder(str(write_encoder(tmp_path / "encoder")))
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    attach(encoder, [next(batches())], largest=127, cut=0.0)
    assert sum(isinstance(part, RoundedLinear) for part in encoder.modules()) == 6 * LAYERS
    assert len(detach(encoder)) == 4 * LAYERS == len(products(encoder))
    after = encoder.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_padding_has_no_say_in_the_first_steps(tmp_path: Path) -> None:
    folder = str(write_encoder(tmp_path / "encoder"))
    tokens = tokenize(tiny_tokenizer(), TEXTS[1:2])
    padding = torch.zeros(1, 30, dtype=torch.long)
    padded = Tokens(
        torch.cat([tokens.ids, padding], dim=1), torch.cat([tokens.mask, padding.bool()], dim=1)
    )
    sizes = []
    for batch in (tokens, padded):
        encoder = load_encoder(folder).eval()
        attach(encoder, [batch], largest=127, cut=0.0)
        sizes.append([product.scale for product in detach(encoder)])
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4)


@pytest.mark.parametrize(("variant", "largest"), [("int8-avx2", 63), ("int8-vnni", 127)])
def test_weights_have_the_bits_of_their_variant(hard: Path, variant: str, largest: int) -> None:
    _, encoder = next(qat.learn_rounding(table(hard, variant=variant), batches()))
    for product in detach(encoder):
        assert product.weight.int().abs().max() == largest


def under_rounding(plain: Path) -> tuple[np.ndarray, onnx.ModelProto, list[Learned]]:
    """What torch says of TEXTS under rounding, and what a graph is made from."""
    encoder = load_encoder(str(plain / "encoder")).eval()
    attach(encoder, [next(batches())], largest=63, cut=0.0)
    with torch.inference_mode():
        pooled = encode(encoder, next(batches())).pooled.numpy()
    return pooled, source_of(plain / "model").graph, detach(encoder)


@pytest.mark.parametrize("form", ["qdq", "fused"])
def test_a_graph_says_what_torch_says_under_rounding(plain: Path, form: str) -> None:
    pooled, model, found = under_rounding(plain)
    small = with_steps(model, found, form=form)
    # as the service opens it: more would fuse QDQ, and take its scales for those of columns
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(small.SerializeToString(), options)
    encoded = Tokenizer.load(plain / "model" / "tokenizer.json", max_tokens=48).encode(
        TEXTS, truncate=False
    )
    feed = {k: v for k, v in pad(encoded).items() if k != "token_type_ids"}
    served = session.run(["pooled"], feed)[0]
    cosines = (served * pooled).sum(1)
    cosines /= np.linalg.norm(served, axis=1) * np.linalg.norm(pooled, axis=1)
    # the word table alone is int8 here and not there
    assert cosines.min() > 0.998
    kinds = {node.op_type for node in small.graph.node}
    assert ("DequantizeLinear" in kinds) == (form == "qdq")
    assert not {"Attention"} & kinds


def test_a_graph_with_other_products_is_refused(plain: Path) -> None:
    _, model, found = under_rounding(plain)
    with pytest.raises(QuantizeError, match="1 of 9 learned products are not in the graph"):
        with_steps(model, [*found, found[0]], form="qdq")
    with pytest.raises(QuantizeError, match=r"weight of \(32, 96\); learned was \(32, 32\)"):
        with_steps(model, found[1:], form="qdq")
    with pytest.raises(QuantizeError, match="learned was none"):
        with_steps(model, found[:-1], form="qdq")


@pytest.mark.parametrize(
    ("form", "variant"),
    [("qdq", "int8-avx2"), pytest.param("fused", "int8-vnni", marks=WITH_VNNI)],
)
def test_the_verb_adds_a_variant_that_is_served(
    hard: Path, tmp_path: Path, form: str, variant: str
) -> None:
    folder = Path(shutil.copytree(hard / "model", tmp_path / "model"))
    done = table(hard, model_dir=folder, form=form, variant=variant, steps=10)
    qat.run(recipe(tmp_path, qat=done.model_dump(mode="json")))
    manifest = load_manifest(folder)
    assert [v.file for v in manifest.variants] == ["student-fp32.onnx", f"student-{variant}.onnx"]
    if variant == "int8-avx2":
        session = StudentSession.load(
            folder, manifest, device="cpu", precision="int8", intra_op_threads=1
        )
        session.self_test(Tokenizer.load(folder / "tokenizer.json", max_tokens=48))


def test_a_student_that_stays_too_far_away_is_not_listed(hard: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(hard / "model", tmp_path / "model"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = table(hard, model_dir=folder, steps=1, warmup_steps=1, min_cosine=1.0)
    with pytest.raises(ParityError, match=r"student-int8-avx2\.onnx"):
        qat.run(recipe(tmp_path, qat=done.model_dump(mode="json")))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def begun(*_: object) -> None:
    pytest.fail("training began")


def test_what_cannot_work_is_refused_before_training(
    hard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qat, "learn_rounding", begun)
    other = write_encoder(tmp_path / "other", intermediate_size=32)
    done = table(hard, encoder=other).model_dump(mode="json")
    with pytest.raises(RecipeError, match=r"was not exported from .*other: .* cosine"):
        qat.run(recipe(tmp_path, qat=done))
    small = shutil.copytree(hard / "model", tmp_path / "model")
    text = (small / "manifest.json").read_text().replace('"fp32"', '"int8"')
    (small / "manifest.json").write_text(text)
    done = table(hard, model_dir=small).model_dump(mode="json")
    with pytest.raises(VariantError, match="start from fp32"):
        qat.run(recipe(tmp_path, qat=done))
    for changes, said in (
        ({"word_table_block": 5}, "rows of 32 do not divide into blocks of 5"),
        ({"parity_texts": ["dog " * 99]}, r"texts\[0\]"),
    ):
        done = table(hard, **changes).model_dump(mode="json")
        with pytest.raises(LightMBERTError, match=said):
            qat.run(recipe(tmp_path, qat=done))
    with pytest.raises(ValueError, match="at least 1 item"):
        table(hard, parity_texts=[])
    with pytest.raises(ValueError, match="both 0: nothing is learned"):
        table(hard, hidden_weight=0, pooled_weight=0)
    with pytest.raises(ValueError, match="warmup_steps 61 exceed steps 60"):
        table(hard, warmup_steps=61)


def test_heads_that_came_after_the_export_are_told_before_training(
    hard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qat, "learn_rounding", begun)
    encoder = Path(shutil.copytree(hard / "encoder", tmp_path / "encoder"))
    save_head(encoder, a_head("late"))
    done = table(hard, encoder=encoder).model_dump(mode="json")
    with pytest.raises(RecipeError, match=r"other heads \(late, .*\) than .*: export it again"):
        qat.run(recipe(tmp_path, qat=done))


def test_a_loss_that_is_no_number_stops_the_run(hard: Path) -> None:
    wild = qat.learn_rounding(table(hard, learning_rate=1e30, warmup_steps=1), batches())
    with pytest.raises(DivergedError, match="try a lower learning_rate than 1e\\+30"):
        for _ in wild:
            pass


def test_another_family_is_refused() -> None:
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(vocab_size=50, dim=32, n_layers=1, n_heads=4, hidden_dim=64)
    with pytest.raises(RoundingError, match="family bert, not distilbert"):
        products(DistilBertModel(config))
