import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper
from tiny_encoder import LAYERS, TEXTS, a_head, write_encoder, write_encoder_with_heads

from app.errors import ManifestError, VariantError
from app.runtime.artifact import Tolerance, load_manifest, save_manifest, verify_file
from app.runtime.outputs import Floats
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Encoded, Tokenizer, pad
from distill.calibration import channel_ranges
from distill.export import Card, export_student
from distill.fp16 import fp16
from distill.heads import save_head
from distill.int8 import LARGEST_ACTIVATION, int8, smoothing, weight_scales
from distill.padding import with_padding
from distill.parity import ParityError
from distill.quantize import quantize_student
from distill.tables.ship import QuantizeTable
from distill.variants import Small
from distill.word_table import Block, QuantizeError, quantize_table

TOLERANCES: dict[Small, Tolerance] = {
    "int8-avx2": Tolerance(min_cosine=0.99, max_probability_error=0.2),
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
    quantize_student(folder, tolerances=TOLERANCES, calibration=TEXTS, texts=TEXTS, keep_fp32=True)
    return folder


@pytest.fixture
def fresh(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


def calibrating(folder: Path) -> list[Encoded]:
    tokenizer = Tokenizer.load(folder / "tokenizer.json", max_tokens=48)
    return tokenizer.encode(TEXTS, truncate=True)


def graph_of(folder: Path, precision: str) -> onnx.ModelProto:
    [variant] = [v for v in load_manifest(folder).variants if v.precision == precision]
    model = onnx.load(verify_file(folder, variant))
    with_padding(model)  # of fp32, which is served without
    return model


def tensors_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("block", "groups"), [("row", 1), (8, 4), (32, 1)])
def test_a_value_is_off_by_half_a_step_of_its_block_at_most(block: Block, groups: int) -> None:
    random = np.random.default_rng(0)
    lengths = 10.0 ** np.arange(-3, 3)[:, None]
    table = (random.standard_normal((6, 32)) * lengths).astype(np.float32)
    table[:, :8] *= 50
    small = quantize_table(table, block=block)
    assert small.steps.dtype == np.int8
    assert small.scales.shape == (6, groups)
    largest = np.abs(table.reshape(6, groups, -1)).max(axis=2)
    bound = np.repeat(largest / 127, 32 // groups, axis=1) * 0.5001
    assert (np.abs(small.values() - table) <= bound).all()


def test_smaller_blocks_lose_less() -> None:
    table = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
    blocks: tuple[Block, ...] = ("row", 32, 8)
    lost = [np.abs(quantize_table(table, block=b).values() - table).mean() for b in blocks]
    assert lost[0] > 1.1 * lost[1] > 1.2 * lost[2]


def test_a_row_of_zeros_stays_zero() -> None:
    small = quantize_table(np.zeros((2, 4), dtype=np.float32), block="row")
    assert not small.steps.any()
    assert np.isfinite(small.scales).all()


def test_rows_that_do_not_divide_into_blocks_are_refused() -> None:
    with pytest.raises(QuantizeError, match="rows of 32 do not divide into blocks of 5"):
        quantize_table(np.zeros((2, 32), dtype=np.float32), block=5)


def test_the_word_table_is_int8_and_close_to_the_original(exported: Path, quantized: Path) -> None:
    original = tensors_of(graph_of(exported, "fp32"))[WORDS]
    tensors = tensors_of(graph_of(quantized, "int8"))
    rows, scales = tensors["word_rows"], tensors["word_scales"]
    assert (rows.dtype, rows.shape, scales.shape) == (np.int8, original.shape, (len(rows), 1))
    bound = np.abs(original).max(axis=1, keepdims=True) / 127 * 0.5001
    assert (np.abs(rows * scales - original) <= bound).all()
    assert WORDS not in tensors


def test_neighbours_of_a_product_never_saturate_and_use_what_they_may(quantized: Path) -> None:
    """255 times the two of them is within 16 bits, and in each column it comes near."""
    model = graph_of(quantized, "int8")
    tensors = tensors_of(model)
    products = [n for n in model.graph.node if n.op_type in {"MatMulIntegerToFloat", "QAttention"}]
    assert len(products) == 4 * LAYERS
    assert not {"MatMul", "Attention"} & {node.op_type for node in model.graph.node}
    for node in products:
        weight = tensors[node.input[1]]
        assert weight.dtype == np.int8
        pairs = np.abs(weight.astype(int)).reshape(-1, 2, weight.shape[1]).sum(axis=1)
        assert 255 * pairs.max() <= np.iinfo(np.int16).max
        assert (pairs.max(axis=0) >= 126).all()
        assert np.abs(weight.astype(int)).max() > 64  # which is what 7 bits would end at
        scales = tensors[node.input[4 if node.op_type == "QAttention" else 3]]
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
    for small, precision in (("int8-avx2", "int8"), ("fp16", "fp16")):
        assert variants[precision].tolerance == TOLERANCES[small]
        assert variants[precision].file == f"student-{small}.onnx"


def test_a_quantized_folder_is_served_and_passes_its_self_test(quantized: Path) -> None:
    session = StudentSession.load(
        quantized, load_manifest(quantized), device="cpu", precision="auto", intra_op_threads=1
    )
    assert session.variant.precision == "int8"
    session.self_test(Tokenizer.load(quantized / "tokenizer.json", max_tokens=48))


def test_figures_are_returned_for_each_variant(fresh: Path) -> None:
    parities = quantize_student(
        fresh, tolerances=TOLERANCES, calibration=TEXTS, texts=TEXTS, keep_fp32=True
    )
    assert 0.99 < parities["int8-avx2"].min_cosine < parities["fp16"].min_cosine < 1.0001
    assert len(parities["int8-avx2"].cosines) == len(TEXTS)


def test_segments_of_pairs_survive_the_unfused_embedding(tmp_path: Path) -> None:
    encoder_dir = write_encoder(tmp_path / "encoder")
    save_head(encoder_dir, a_head("entails", pair=True))
    folder = export(encoder_dir, tmp_path / "model")
    pairs = [("a dog", "the cat"), ("the cat sleeps", "a dog"), "a dog"]
    quantize_student(folder, tolerances=TOLERANCES, calibration=TEXTS, texts=pairs, keep_fp32=True)


def test_without_fp32_only_the_smaller_variants_stay(fresh: Path) -> None:
    quantize_student(fresh, tolerances=TOLERANCES, calibration=TEXTS, texts=TEXTS, keep_fp32=False)
    assert [v.precision for v in load_manifest(fresh).variants] == ["int8", "fp16"]
    assert not list(fresh.glob("*fp32*"))
    with pytest.raises(VariantError, match="holds int8, fp16; smaller ones start from fp32"):
        quantize_student(
            fresh, tolerances=TOLERANCES, calibration=TEXTS, texts=TEXTS, keep_fp32=True
        )


def test_quantizing_again_replaces_the_variant(fresh: Path) -> None:
    for _ in range(2):
        quantize_student(
            fresh, tolerances=TOLERANCES, calibration=TEXTS, texts=TEXTS, keep_fp32=True
        )
    assert [v.precision for v in load_manifest(fresh).variants] == ["fp32", "int8", "fp16"]


def test_scores_of_a_variant_that_was_replaced_go(fresh: Path) -> None:
    manifest = load_manifest(fresh)
    metrics = {precision: {"sts": {"en": 0.5}} for precision in ("fp32", "fp16", "int8")}
    measured = manifest.provenance.model_copy(update={"metrics": metrics})
    save_manifest(fresh, manifest.model_copy(update={"provenance": measured}))
    quantize_student(
        fresh,
        tolerances={"int8-avx2": TOLERANCES["int8-avx2"]},
        calibration=TEXTS,
        texts=TEXTS,
        keep_fp32=True,
    )
    assert [*load_manifest(fresh).provenance.metrics] == ["fp32", "fp16"]


@pytest.mark.parametrize("changes", [{"variants": ()}, {"parity_texts": ()}])
def test_a_recipe_that_makes_or_compares_nothing_is_refused(changes: dict[str, tuple[()]]) -> None:
    settings = {
        "model_dir": "model",
        "variants": ["fp16"],
        "word_table_block": "row",
        "fp16_word_table": "fp16",
        "calibration": [{"path": "text"}],
        "calibration_texts": 9,
        "min_cosine_int8": 0.9,
        "min_cosine_fp16": 0.9,
        "max_probability_error": 0.1,
        "keep_fp32": False,
        "parity_texts": TEXTS,
    }
    QuantizeTable.model_validate(settings)
    with pytest.raises(ValueError, match="at least 1 item"):
        QuantizeTable.model_validate(settings | changes)


@pytest.mark.parametrize("strict", ["int8-avx2", "fp16"])
def test_a_variant_over_its_tolerance_changes_nothing(fresh: Path, strict: Small) -> None:
    before = contents(fresh)
    with pytest.raises(ParityError, match=rf"student-{strict}.onnx, in batches of 1: texts\[\d\]"):
        quantize_student(
            fresh,
            tolerances=TOLERANCES | {strict: NEVER},
            calibration=TEXTS,
            texts=TEXTS,
            keep_fp32=False,
        )
    assert contents(fresh) == before


def test_a_manifest_that_cannot_be_written_changes_nothing(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = contents(fresh)
    monkeypatch.setattr("distill.variants.save_manifest", full)
    with pytest.raises(OSError, match="No space left"):
        quantize_student(
            fresh, tolerances=TOLERANCES, calibration=TEXTS, texts=TEXTS, keep_fp32=False
        )
    assert contents(fresh) == before


def test_golden_outputs_that_a_variant_does_not_give_are_found_before_it_is_listed(
    fresh: Path,
) -> None:
    manifest = load_manifest(fresh)
    turned = [g.model_copy(update={"embedding": g.embedding[::-1]}) for g in manifest.golden]
    save_manifest(fresh, manifest.model_copy(update={"golden": tuple(turned)}))
    with pytest.raises(ParityError, match=r"student-int8-avx2.onnx, golden texts: texts\[\d\]"):
        quantize_student(
            fresh, tolerances=TOLERANCES, calibration=TEXTS, texts=TEXTS, keep_fp32=True
        )


def test_an_altered_fp32_graph_is_not_quantized(fresh: Path) -> None:
    with (fresh / "student-fp32.onnx").open("ab") as graph:
        graph.write(b"\0")
    with pytest.raises(ManifestError, match="sha256"):
        quantize_student(
            fresh, tolerances=TOLERANCES, calibration=TEXTS, texts=TEXTS, keep_fp32=True
        )


def outputs(model: onnx.ModelProto, batch: Sequence[Encoded]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    read = {entry.name for entry in session.get_inputs()}
    feed = {name: ids for name, ids in pad(batch).items() if name in read}
    found: np.ndarray = session.run(["pooled"], feed)[0]
    return found


@pytest.mark.parametrize("saturates", [True, False])
def test_company_changes_nothing_in_int8(exported: Path, *, saturates: bool) -> None:
    texts = calibrating(exported)
    # calibrated on one text only: what lies outside its ranges must not depend on company either
    small = int8(graph_of(exported, "fp32"), texts[:1], saturates=saturates)
    together = outputs(small, texts)
    for row, text in enumerate(texts):
        assert outputs(small, [text])[0] == pytest.approx(together[row], abs=1e-6)


def test_neighbours_who_share_lose_more_than_alone_and_less_than_by_a_bit_each(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, texts = graph_of(exported, "fp32"), calibrating(exported)
    reference = outputs(model, texts)

    def error(*, saturates: bool) -> float:
        small = int8(model, texts, saturates=saturates)
        return float(np.abs(outputs(small, texts) - reference).mean())

    shared, alone = error(saturates=True), error(saturates=False)
    monkeypatch.setattr("distill.int8.loudest_pair", lambda weight: 2 * np.abs(weight).max(axis=0))
    assert alone < shared < 0.9 * error(saturates=True)


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.integers(1, 4)),
        elements=st.floats(-4, 4, width=32),
    )
)
def test_two_neighbours_never_have_more_steps_than_sixteen_bits_hold(weight: Floats) -> None:
    scales = weight_scales(weight, saturates=True)
    steps = np.rint(weight / scales).astype(int)
    for row in range(0, len(steps), 2):
        most = np.abs(steps[row : row + 2]).sum(axis=0)
        assert (LARGEST_ACTIVATION * most <= 2**15 - 1).all()
    assert (np.abs(steps * scales - weight) <= scales * (0.5 + 1e-5)).all()
    assert (np.abs(np.rint(weight / weight_scales(weight, saturates=False))) <= 127).all()


def test_every_activation_stays_within_half_a_step_of_its_value(exported: Path) -> None:
    model, texts = graph_of(exported, "fp32"), calibrating(exported)
    small = int8(model, texts, saturates=True)
    tensors = tensors_of(small)
    quantizers = [node for node in small.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == 4 * LAYERS
    names = [name for node in quantizers for name in (node.input[0], node.input[1], node.output[0])]
    kinds = [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8]
    small.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, kinds[i % 3], None)
        for i, name in enumerate(names)
        if name not in tensors
    )
    session = onnxruntime.InferenceSession(small.SerializeToString())
    for text in texts:
        feed = {k: v for k, v in pad([text]).items() if k != "token_type_ids"}
        wanted = [name for name in names if name not in tensors]
        found = tensors | dict(zip(wanted, session.run(wanted, feed), strict=True))
        for node in quantizers:
            values, scale, steps = (
                found[n] for n in (node.input[0], node.input[1], node.output[0])
            )
            zero = 16 if scale.ndim else int(tensors[node.input[2]])
            worth = scale[:, None] if scale.ndim else scale
            # behind attention the values are computed from int8 ones and may leave the range
            slack = 0.51 if scale.ndim else 4
            assert (
                np.abs((steps.astype(int) - zero) * worth - values).max() <= (slack * worth).max()
            )


def test_smoothing_meets_halfway() -> None:
    peak = np.array([0.1, 1, 10], dtype=np.float32)
    weight = np.array([[1, -1], [1, 0.5], [-1, 1]], dtype=np.float32)
    divisors = smoothing(peak, weight)
    assert np.prod(divisors) == pytest.approx(1)
    # after it, activations and weights are equally loud in every channel, up to one factor
    ratio = (peak / divisors) / (np.abs(weight).max(1) * divisors)
    assert ratio == pytest.approx(np.full(3, ratio[0]), rel=1e-5)


def test_ranges_hold_every_channel_of_every_text_and_no_padding(exported: Path) -> None:
    model, texts = graph_of(exported, "fp32"), calibrating(exported)
    [name] = [n.output[0] for n in model.graph.node if n.op_type == "EmbedLayerNormalization"]
    lies = channel_ranges(model, [name], texts)[name]
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    values = np.concatenate(
        [
            session.run([name], {k: v for k, v in pad([t]).items() if k != "token_type_ids"})[0][0]
            for t in texts
        ]
    )
    assert lies.low == pytest.approx(values.min(0))
    assert lies.high == pytest.approx(values.max(0))
    assert lies.peak == pytest.approx(np.abs(values).max(0))


def test_a_product_in_an_unknown_place_is_refused(exported: Path) -> None:
    model = graph_of(exported, "fp32")
    gelu = next(node for node in model.graph.node if node.op_type == "Gelu")
    gelu.op_type, gelu.domain = "Relu", ""
    with pytest.raises(QuantizeError, match=r"multiplies Relu; known: .*Gelu"):
        int8(model, calibrating(exported), saturates=True)


def test_a_weight_beyond_fp16_is_refused(exported: Path) -> None:
    model = graph_of(exported, "fp32")
    body = next(node for node in model.graph.node if node.op_type == "MatMul")
    [tensor] = [t for t in model.graph.initializer if t.name == body.input[1]]
    large = numpy_helper.to_array(tensor).copy()
    large[0, 0] = 70_000
    tensor.CopyFrom(numpy_helper.from_array(large, tensor.name))
    with pytest.raises(QuantizeError, match="70000; fp16 ends at 65504"):
        fp16(model)


def test_a_graph_without_the_known_table_is_refused(exported: Path) -> None:
    model = graph_of(exported, "fp32")
    next(n for n in model.graph.node if n.op_type == "EmbedLayerNormalization").op_type = "Other"
    for make in (lambda: int8(model, [], saturates=True), lambda: fp16(model, block="row")):
        with pytest.raises(QuantizeError, match=r"0 of EmbedLayerNormalization.*factorised"):
            make()


@pytest.mark.parametrize("block", ["row", 8])
def test_a_small_table_in_a_graph_gives_what_its_steps_are_worth(
    exported: Path, block: Block
) -> None:
    model, texts = graph_of(exported, "fp32"), calibrating(exported)
    [table] = [tensor for tensor in model.graph.initializer if tensor.name == WORDS]
    worth = quantize_table(numpy_helper.to_array(table), block=block).values()
    half = outputs(fp16(model, block=block), texts)
    table.CopyFrom(numpy_helper.from_array(worth, WORDS))
    assert half == pytest.approx(outputs(fp16(model), texts), abs=2e-2)
    eight = outputs(int8(graph_of(exported, "fp32"), texts, saturates=False, block=block), texts)
    reference = outputs(model, texts)
    cosines = (eight * reference).sum(1) / np.linalg.norm(eight, axis=1)
    assert (cosines / np.linalg.norm(reference, axis=1)).min() > 0.99


def test_an_fp16_variant_with_an_int8_table_asks_for_no_shape(fresh: Path) -> None:
    bytes_of = {}
    for table in ("fp16", "int8"):
        quantize_student(
            fresh,
            tolerances={"fp16": TOLERANCES["fp16"]},
            calibration=TEXTS,
            texts=TEXTS,
            keep_fp32=True,
            block=16,
            fp16_table=table,
        )
        tensors = tensors_of(model := graph_of(fresh, "fp16"))
        bytes_of[table] = sum(
            tensor.nbytes for name, tensor in tensors.items() if name == WORDS or "word_" in name
        )
    assert tensors["word_rows"].dtype == np.int8
    assert bytes_of["int8"] < 0.8 * bytes_of["fp16"]
    # CUDA would hand these back to the CPU
    assert not {"Shape", "Slice", "Expand"} & {node.op_type for node in model.graph.node}


def test_segments_of_pairs_survive_an_int8_table_in_fp16(tmp_path: Path) -> None:
    encoder_dir = write_encoder(tmp_path / "encoder")
    save_head(encoder_dir, a_head("entails", pair=True))
    folder = export(encoder_dir, tmp_path / "model")
    quantize_student(
        folder,
        tolerances={"fp16": TOLERANCES["fp16"]},
        calibration=TEXTS,
        texts=[("a dog", "the cat"), "a dog"],
        keep_fp32=True,
        fp16_table="int8",
    )
