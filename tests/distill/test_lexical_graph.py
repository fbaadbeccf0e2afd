"""A lexical head in graphs: the same answer in fp32, int8 and fp16, by torch and as served."""

import asyncio
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_encoder import TEXTS, a_lexical_head, tiny_tokenizer
from tiny_model import write_model_dir

from app.engine import Engine
from app.metrics import Metrics
from app.runtime.artifact import load_manifest
from app.runtime.outputs import probabilities
from app.runtime.providers import open_session
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer, pad
from app.settings import Settings
from distill.encoders import TorchEncoder
from distill.evidence import shrink_evidence

TABLE = "heads.language.table"
HALF_STEP = 0.5 / 127
MANY = (*TEXTS, "a dog a cat a dog", "wald")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In fp32, int8 and fp16; golden outputs and parity held every one of them to torch."""
    root = tmp_path_factory.mktemp("lexical")
    return write_model_dir(root, heads=[a_lexical_head(tiny_tokenizer())])


@pytest.fixture(scope="module")
def encoder(model: Path) -> Path:
    """What it was made of."""
    return model.parent / "encoder"


def graph_of(model: Path, precision: str) -> onnx.ModelProto:
    [variant] = [v for v in load_manifest(model).variants if v.precision == precision]
    return onnx.load(model / variant.file)


def logits_of(model: Path, precision: str) -> np.ndarray:
    """Of MANY, in one batch, on the CPU whatever the variant is for."""
    [variant] = [v for v in load_manifest(model).variants if v.precision == precision]
    session = open_session(model / variant.file, device="cpu", intra_op_threads=1)
    tokenizer = Tokenizer.load(model / "tokenizer.json", max_tokens=48)
    feed = pad(tokenizer.encode(MANY, truncate=True))
    read = {entry.name for entry in session.get_inputs()}
    [logits] = session.run(["logits_language"], {name: feed[name] for name in read})
    return logits


def test_fp32_answers_as_torch_does(encoder: Path, model: Path) -> None:
    expected = TorchEncoder(encoder, max_tokens=48).outputs(MANY)["logits_language"]
    np.testing.assert_allclose(logits_of(model, "fp32"), expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_small_variants_stray_by_half_a_step_a_token_at_most(
    encoder: Path, model: Path, precision: str
) -> None:
    exact = logits_of(model, "fp32")
    small = logits_of(model, precision)
    peak = numpy_helper.to_array(tensor(graph_of(model, "fp32"), TABLE)).__abs__().max(axis=0)
    tokenizer = Tokenizer.load(model / "tokenizer.json", max_tokens=48)
    tokens = np.array([len(each.ids) for each in tokenizer.encode(MANY, truncate=True)])
    assert (np.abs(small - exact) <= tokens[:, None] * peak * HALF_STEP * 1.001).all()
    assert (small != exact).any()
    assert (small.argmax(axis=1) == exact.argmax(axis=1)).all()


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_small_variants_hold_the_table_in_int8_and_a_scale_for_each_label(
    model: Path, precision: str
) -> None:
    graph = graph_of(model, precision)
    steps, scales = (
        numpy_helper.to_array(tensor(graph, f"{TABLE}_{part}")) for part in ("steps", "scales")
    )
    assert (steps.dtype, scales.dtype) == (np.int8, np.float32)
    assert steps.shape == (tiny_tokenizer().get_vocab_size(), 3)
    assert scales.shape == (3,)
    assert np.abs(steps.astype(int)).max(axis=0).tolist() == [127] * 3
    assert TABLE not in {each.name for each in graph.graph.initializer}


def test_a_table_of_zeros_stays_zero(model: Path) -> None:
    graph = graph_of(model, "fp32")
    table = tensor(graph, TABLE)
    table.CopyFrom(numpy_helper.from_array(np.zeros((9, 3), dtype=np.float32), TABLE))
    shrink_evidence(graph)
    assert not numpy_helper.to_array(tensor(graph, f"{TABLE}_steps")).any()
    assert np.isfinite(numpy_helper.to_array(tensor(graph, f"{TABLE}_scales"))).all()


def test_the_golden_probabilities_are_those_of_the_head(encoder: Path, model: Path) -> None:
    torch = TorchEncoder(encoder, max_tokens=48)
    manifest = load_manifest(model)
    assert manifest.tasks["language"] == torch.tasks["language"]
    found = [golden.probabilities["language"] for golden in manifest.golden]
    logits = torch.outputs(TEXTS)["logits_language"]
    np.testing.assert_allclose(found, probabilities(logits, torch.tasks["language"]), atol=1e-5)


def test_a_text_is_answered_alike_alone_and_in_company(model: Path) -> None:
    manifest = load_manifest(model)
    tokenizer = Tokenizer.load(model / "tokenizer.json", max_tokens=48)
    session = StudentSession.load(
        model, manifest, device="cpu", precision="int8", intra_op_threads=1
    )
    together = session.run(tokenizer.encode(MANY, truncate=True))["logits_language"]
    for text, expected in zip(MANY, together, strict=True):
        [alone] = session.run(tokenizer.encode([text], truncate=True))["logits_language"]
        np.testing.assert_allclose(alone, expected, atol=1e-5)


async def test_the_service_answers_with_it_as_with_any_head(encoder: Path, model: Path) -> None:
    engine = Engine.load(Settings(model_dir=model, precision="fp32"), Metrics(error_codes=[]))
    async with asyncio.timeout(30):
        await engine.start()
        try:
            found = await engine.classify(["a dog", "кошка спит"], task="language")
        finally:
            await engine.stop()
    torch = TorchEncoder(encoder, max_tokens=48)
    expected = probabilities(
        torch.outputs(["a dog", "кошка спит"])["logits_language"], torch.tasks["language"]
    )
    assert found.labels == torch.tasks["language"].labels
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(each for each in model.graph.initializer if each.name == name)
