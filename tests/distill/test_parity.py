import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_encoder import TEXTS, a_head, write_encoder_with_heads

from app.errors import TextTooLongError
from app.runtime.artifact import Manifest, Tolerance, load_manifest, sha256_of
from distill.export import Card, export_student
from distill.heads import load_heads
from distill.parity import (
    Outputs,
    ParityError,
    compare,
    gate,
    gate_golden,
    require_parity,
    served_outputs,
    torch_outputs,
)
from distill.teacher import load_teacher

LOOSE = Tolerance(min_cosine=0.9, max_probability_error=0.1)


def some_outputs() -> Outputs:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((4, 8)).astype(np.float32)
    topic = random.dirichlet(np.ones(3), size=4).astype(np.float32)
    return Outputs(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), {"topic": topic})


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder_with_heads(tmp_path_factory.mktemp("parity") / "encoder")


@pytest.fixture(scope="module")
def model_dir(encoder_dir: Path) -> Path:
    card = Card("tiny", "1", "Apache-2.0", ("en",), 48, TEXTS, "r.toml", "0" * 64)
    folder = encoder_dir.parent / "model"
    export_student(encoder_dir, folder, card=card, min_cosine=0.9999)
    return folder


def reference_of(encoder_dir: Path, change: Callable[[torch.nn.Module], None] | None) -> Outputs:
    encoder = load_teacher(str(encoder_dir))
    if change:
        change(encoder)
    heads = load_heads(encoder_dir)
    return torch_outputs(encoder, heads, encoder_dir / "tokenizer.json", TEXTS)


def test_an_encoder_agrees_with_itself() -> None:
    parity = compare(some_outputs(), some_outputs())
    assert parity.min_cosine == pytest.approx(1)
    assert parity.mean_cosine == pytest.approx(1)
    assert parity.max_probability_error == {"topic": 0}


def test_the_text_that_strays_is_named_with_its_cosine_and_the_limit() -> None:
    reference, found = some_outputs(), some_outputs()
    found.embeddings[2] = np.roll(found.embeddings[2], 1)
    cosine = float(found.embeddings[2] @ reference.embeddings[2])
    with pytest.raises(ParityError, match=rf"texts\[2\] has cosine {cosine:.6f}.*0\.9 "):
        require_parity(compare(reference, found), LOOSE, what="x")


def test_a_probability_that_strays_is_named_with_its_task() -> None:
    reference, found = some_outputs(), some_outputs()
    found.probabilities["topic"][1] += (0.25, -0.25, 0)
    with pytest.raises(ParityError, match=r"texts\[1\] strays 0\.25.*'topic'; at most 0\.1 "):
        require_parity(compare(reference, found), LOOSE, what="x")


@pytest.mark.parametrize("part", ["embeddings", "probabilities"])
def test_a_figure_that_is_not_a_number_is_refused(part: str) -> None:
    found = some_outputs()
    rows = found.embeddings if part == "embeddings" else found.probabilities["topic"]
    rows[3] = np.nan
    with pytest.raises(ParityError, match=r"texts\[3\].* nan"):
        require_parity(compare(some_outputs(), found), LOOSE, what="x")


def test_encoders_of_different_tasks_are_not_compared() -> None:
    other = some_outputs()
    with pytest.raises(ValueError, match="tasks"):
        compare(some_outputs(), Outputs(other.embeddings, {}))


def test_the_served_graph_agrees_with_torch(encoder_dir: Path, model_dir: Path) -> None:
    manifest = load_manifest(model_dir)
    reference = reference_of(encoder_dir, None)
    parity = gate(model_dir, manifest, manifest.variants[0], TEXTS, reference)
    assert parity.min_cosine > 0.99999
    assert max(parity.max_probability_error.values()) < 1e-4


def forget_the_norm_of_layer_1(encoder: torch.nn.Module) -> None:
    torch.nn.init.zeros_(encoder.encoder.layer[1].output.LayerNorm.bias)


def swap_two_positions(encoder: torch.nn.Module) -> None:
    table = encoder.embeddings.position_embeddings.weight
    with torch.no_grad():
        table[[1, 2]] = table[[2, 1]].clone()


@pytest.mark.parametrize("change", [forget_the_norm_of_layer_1, swap_two_positions])
def test_the_gate_refuses_a_graph_of_other_weights(
    encoder_dir: Path, model_dir: Path, change: Callable[[torch.nn.Module], None]
) -> None:
    manifest = load_manifest(model_dir)
    perturbed = reference_of(encoder_dir, change)
    with pytest.raises(ParityError, match=r"student-fp32.onnx.*texts\[\d\] has cosine"):
        gate(model_dir, manifest, manifest.variants[0], TEXTS, perturbed)


def test_the_gate_refuses_a_graph_of_another_head(encoder_dir: Path, model_dir: Path) -> None:
    manifest = load_manifest(model_dir)
    heads = load_heads(encoder_dir) | {"topic": a_head("topic", temperature=0.8)}
    encoder = load_teacher(str(encoder_dir))
    reference = torch_outputs(encoder, heads, encoder_dir / "tokenizer.json", TEXTS)
    with pytest.raises(ParityError, match="reference probabilities of 'topic'"):
        gate(model_dir, manifest, manifest.variants[0], TEXTS, reference)


def test_a_graph_that_is_right_only_without_padding_is_refused(
    encoder_dir: Path, model_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model_dir, tmp_path / "model"))
    graph = onnx.load(folder / "student-fp32.onnx")
    for node in graph.graph.node:
        if node.op_type == "MultiHeadAttention":
            node.input[4] = ""  # no mask: padding takes part
    onnx.save(graph, folder / "unmasked.onnx")
    manifest = load_manifest(folder)
    changes = {"file": "unmasked.onnx", "sha256": sha256_of(folder / "unmasked.onnx")}
    variant = manifest.variants[0].model_copy(update=changes)
    with pytest.raises(ParityError, match=r"unmasked\.onnx, in batches of 32: texts"):
        gate(folder, manifest, variant, TEXTS, reference_of(encoder_dir, None))


def test_golden_outputs_that_the_graph_does_not_give_are_refused(model_dir: Path) -> None:
    manifest = load_manifest(model_dir)
    gate_golden(model_dir, manifest, manifest.variants[0])
    flipped = tuple(-value for value in manifest.golden[4].embedding)
    golden = list(manifest.golden)
    golden[4] = golden[4].model_copy(update={"embedding": flipped})
    altered = manifest.model_copy(update={"golden": tuple(golden)})
    with pytest.raises(ParityError, match=r"golden texts: texts\[4\] has cosine -(1\.0|0\.99999)"):
        gate_golden(model_dir, altered, manifest.variants[0])


def test_a_cuda_variant_is_measured_on_the_cpu(model_dir: Path) -> None:
    manifest = load_manifest(model_dir)
    served = manifest.variants[0]
    as_cuda = served.model_copy(update={"target": "cuda"})
    one, other = (
        served_outputs(model_dir, manifest, variant, TEXTS, batch_texts=4)
        for variant in (served, as_cuda)
    )
    np.testing.assert_allclose(other.embeddings, one.embeddings, atol=1e-6)


def test_a_text_over_the_limit_is_refused_and_not_cut(model_dir: Path) -> None:
    manifest: Manifest = load_manifest(model_dir)
    with pytest.raises(TextTooLongError, match=r"texts\[1\]"):
        served_outputs(
            model_dir, manifest, manifest.variants[0], ["dog", "dog " * 99], batch_texts=2
        )
