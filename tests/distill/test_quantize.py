import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_encoder import LAYERS, TEXTS, a_head, write_encoder, write_encoder_with_heads

from app.errors import ManifestError, VariantError
from app.runtime.artifact import Tolerance, load_manifest, save_manifest, verify_file
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer
from distill.export import Card, export_student
from distill.heads import save_head
from distill.parity import ParityError
from distill.precision import QuantizeError, fp16, int8, quantize_rows
from distill.quantize import Small, quantize_student

TOLERANCES: dict[Small, Tolerance] = {
    "int8": Tolerance(min_cosine=0.99, max_probability_error=0.2),
    "fp16": Tolerance(min_cosine=0.9999, max_probability_error=0.01),
}
WORDS = "encoder.embeddings.word_embeddings.weight"
NEVER = Tolerance(min_cosine=1, max_probability_error=0)


def export(encoder_dir: Path, folder: Path) -> Path:
    card = Card("tiny", "1", "Apache-2.0", ("en",), 48, TEXTS, "r.toml", "0" * 64)
    export_student(encoder_dir, folder, card=card, min_cosine=0.9999)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quantize")
    return export(write_encoder_with_heads(root / "encoder"), root / "model")


@pytest.fixture(scope="module")
def quantized(exported: Path) -> Path:
    folder = exported.parent / "quantized"
    shutil.copytree(exported, folder)
    quantize_student(folder, tolerances=TOLERANCES, texts=TEXTS, keep_fp32=True)
    return folder


@pytest.fixture
def fresh(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


def graph_of(folder: Path, precision: str) -> onnx.ModelProto:
    [variant] = [v for v in load_manifest(folder).variants if v.precision == precision]
    return onnx.load(verify_file(folder, variant))


def tensors_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_row_is_off_by_half_a_step_of_its_own_at_most() -> None:
    random = np.random.default_rng(0)
    lengths = 10.0 ** np.arange(-3, 3)[:, None]
    table = (random.standard_normal((6, 32)) * lengths).astype(np.float32)
    rows, scales = quantize_rows(table)
    assert rows.dtype == np.int8
    steps = np.abs(table).max(axis=1, keepdims=True) / 127
    assert (np.abs(rows * scales - table) <= steps * 0.5001).all()


def test_a_row_of_zeros_stays_zero() -> None:
    rows, scales = quantize_rows(np.zeros((2, 4), dtype=np.float32))
    assert not rows.any()
    assert np.isfinite(scales).all()


def test_the_word_table_is_int8_and_close_to_the_original(exported: Path, quantized: Path) -> None:
    original = tensors_of(graph_of(exported, "fp32"))[WORDS]
    tensors = tensors_of(graph_of(quantized, "int8"))
    rows, scales = tensors["word_rows"], tensors["word_scales"]
    assert (rows.dtype, rows.shape, scales.shape) == (np.int8, original.shape, (len(rows), 1))
    bound = np.abs(original).max(axis=1, keepdims=True) / 127 * 0.5001
    assert (np.abs(rows * scales - original) <= bound).all()
    assert WORDS not in tensors


def test_matrix_products_have_seven_bits_and_a_scale_per_channel(quantized: Path) -> None:
    model = graph_of(quantized, "int8")
    tensors = tensors_of(model)
    products = [n for n in model.graph.node if n.op_type in {"MatMulInteger", "QAttention"}]
    assert len(products) == 4 * LAYERS
    for node in products:
        weight = tensors[node.input[1]]
        assert weight.dtype == np.int8
        assert 50 < np.abs(weight.astype(int)).max() <= 64
        scales = tensors[node.input[1].removesuffix("_quantized") + "_scale"]
        assert scales.shape == (weight.shape[1],)


def test_pooling_and_heads_stay_float32_in_every_variant(quantized: Path) -> None:
    for precision in ("int8", "fp16"):
        model = graph_of(quantized, precision)
        assert tensors_of(model)["heads.topic.weight"].dtype == np.float32
        kinds = {output.type.tensor_type.elem_type for output in model.graph.output}
        assert kinds == {onnx.TensorProto.FLOAT}


def test_every_weight_of_the_encoder_is_fp16(quantized: Path) -> None:
    floats = [
        name
        for name, array in tensors_of(graph_of(quantized, "fp16")).items()
        if array.dtype == np.float32 and not name.startswith("heads.")
    ]
    assert floats == []


def test_smaller_variants_are_smaller_and_named_for_their_machines(quantized: Path) -> None:
    variants = {variant.precision: variant for variant in load_manifest(quantized).variants}
    assert {p: v.target for p, v in variants.items()} == {
        "fp32": "cpu",
        "int8": "cpu-avx2",
        "fp16": "cuda",
    }
    for precision in ("int8", "fp16"):
        assert variants[precision].bytes < 0.6 * variants["fp32"].bytes
        assert variants[precision].tolerance == TOLERANCES[precision]
        assert variants[precision].file == f"student-{precision}.onnx"


def test_a_quantized_folder_is_served_and_passes_its_self_test(quantized: Path) -> None:
    session = StudentSession.load(
        quantized, load_manifest(quantized), device="cpu", precision="auto", intra_op_threads=1
    )
    assert session.variant.precision == "int8"
    session.self_test(Tokenizer.load(quantized / "tokenizer.json", max_tokens=48))


def test_figures_are_returned_for_each_variant(fresh: Path) -> None:
    parities = quantize_student(fresh, tolerances=TOLERANCES, texts=TEXTS, keep_fp32=True)
    assert 0.99 < parities["int8"].min_cosine < parities["fp16"].min_cosine < 1.0001
    assert len(parities["int8"].cosines) == len(TEXTS)


def test_segments_of_pairs_survive_the_unfused_embedding(tmp_path: Path) -> None:
    encoder_dir = write_encoder(tmp_path / "encoder")
    save_head(encoder_dir, a_head("entails", pair=True))
    folder = export(encoder_dir, tmp_path / "model")
    pairs = [("a dog", "the cat"), ("the cat sleeps", "a dog"), "a dog"]
    quantize_student(folder, tolerances=TOLERANCES, texts=pairs, keep_fp32=True)


def test_without_fp32_only_the_smaller_variants_stay(fresh: Path) -> None:
    quantize_student(fresh, tolerances=TOLERANCES, texts=TEXTS, keep_fp32=False)
    assert [v.precision for v in load_manifest(fresh).variants] == ["int8", "fp16"]
    assert not list(fresh.glob("*fp32*"))
    with pytest.raises(VariantError, match="holds int8, fp16; quantize starts from fp32"):
        quantize_student(fresh, tolerances=TOLERANCES, texts=TEXTS, keep_fp32=True)


def test_quantizing_again_replaces_the_variant(fresh: Path) -> None:
    for _ in range(2):
        quantize_student(fresh, tolerances=TOLERANCES, texts=TEXTS, keep_fp32=True)
    assert [v.precision for v in load_manifest(fresh).variants] == ["fp32", "int8", "fp16"]


@pytest.mark.parametrize("strict", ["int8", "fp16"])
def test_a_variant_over_its_tolerance_changes_nothing(fresh: Path, strict: Small) -> None:
    before = contents(fresh)
    with pytest.raises(ParityError, match=rf"student-{strict}.onnx, in batches of 1: texts\[\d\]"):
        quantize_student(
            fresh, tolerances=TOLERANCES | {strict: NEVER}, texts=TEXTS, keep_fp32=False
        )
    assert contents(fresh) == before


def test_golden_outputs_that_a_variant_does_not_give_are_found_before_it_is_listed(
    fresh: Path,
) -> None:
    manifest = load_manifest(fresh)
    turned = [g.model_copy(update={"embedding": g.embedding[::-1]}) for g in manifest.golden]
    save_manifest(fresh, manifest.model_copy(update={"golden": tuple(turned)}))
    with pytest.raises(ParityError, match=r"student-int8.onnx, golden texts: texts\[\d\]"):
        quantize_student(fresh, tolerances=TOLERANCES, texts=TEXTS, keep_fp32=True)


def test_an_altered_fp32_graph_is_not_quantized(fresh: Path) -> None:
    with (fresh / "student-fp32.onnx").open("ab") as graph:
        graph.write(b"\0")
    with pytest.raises(ManifestError, match="sha256"):
        quantize_student(fresh, tolerances=TOLERANCES, texts=TEXTS, keep_fp32=True)


def test_a_product_that_stays_fp32_is_refused(exported: Path) -> None:
    model = graph_of(exported, "fp32")
    attention = next(node for node in model.graph.node if node.op_type == "Attention")
    attention.attribute.append(onnx.helper.make_attribute("qkv_hidden_sizes", [32, 32, 32]))
    with pytest.raises(QuantizeError, match="7 of 8 matrix products became int8"):
        int8(model)


def test_a_weight_beyond_fp16_is_refused(exported: Path) -> None:
    model = graph_of(exported, "fp32")
    body = next(node for node in model.graph.node if node.op_type == "MatMul")
    [tensor] = [t for t in model.graph.initializer if t.name == body.input[1]]
    large = numpy_helper.to_array(tensor).copy()
    large[0, 0] = 70_000
    tensor.CopyFrom(numpy_helper.from_array(large, tensor.name))
    with pytest.raises(QuantizeError, match="70000; fp16 ends at 65504"):
        fp16(model)
