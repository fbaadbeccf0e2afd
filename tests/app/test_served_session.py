import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from toy_student import MAX_TOKENS, describe, sha256, write_graph, write_model_dir

from app.errors import ManifestError, SelfTestError, VariantError
from app.runtime import providers
from app.runtime.artifact import Tolerance, Variant, load_manifest, save_manifest
from app.runtime.providers import choose_variant
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer


def load(folder: Path, **options: Any) -> StudentSession:  # noqa: ANN401 - passed on as they are
    chosen = {"device": "cpu", "precision": "auto", "intra_op_threads": 1} | options
    return StudentSession.load(folder, load_manifest(folder), **chosen)


def tokenizer_of(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder / "tokenizer.json", max_tokens=MAX_TOKENS)


def test_one_run_gives_every_output_of_every_text(toy_model_dir: Path) -> None:
    session = load(toy_model_dir)
    texts = ["hund", ("tax", "tax"), "katt hund"]
    outputs = session.run(tokenizer_of(toy_model_dir).encode(texts, truncate=False))
    assert {name: array.shape for name, array in outputs.items()} == {
        "pooled": (3, 4),
        "logits_topic": (3, 2),
        "logits_same": (3, 2),
    }
    assert all(array.dtype == np.float32 for array in outputs.values())
    np.testing.assert_allclose(outputs["pooled"][2], [0.25, 0.25, 0, 0])


def test_padding_changes_nothing(toy_model_dir: Path) -> None:
    session, tokenizer = load(toy_model_dir), tokenizer_of(toy_model_dir)
    short, long = tokenizer.encode(["hund", "katt tax katt tax"], truncate=False)
    alone, company = session.run([short]), session.run([short, long])
    for name, array in alone.items():
        np.testing.assert_allclose(company[name][:1], array, atol=1e-6)


def test_the_self_test_passes_on_the_student_it_describes(toy_model_dir: Path) -> None:
    load(toy_model_dir).self_test(tokenizer_of(toy_model_dir))


def test_the_self_test_names_the_input_the_figure_and_the_limit(tmp_path: Path) -> None:
    def other_probabilities(manifest: dict[str, Any]) -> None:
        manifest["golden"][0]["probabilities"]["topic"] = [0.5, 0.5]

    folder = write_model_dir(tmp_path / "toy", other_probabilities)
    message = r"golden\[0\].* strays 0\.291391 .* of topic; at most 0\.001 is allowed"
    with pytest.raises(SelfTestError, match=message):
        load(folder).self_test(tokenizer_of(folder))


def test_weights_in_another_file_are_refused_even_inside_the_folder(tmp_path: Path) -> None:
    def move_weights_out(manifest: dict[str, Any]) -> None:
        graph = tmp_path / "toy" / "model.onnx"
        student = onnx.load(graph)
        for weights in student.graph.initializer:  # only raw bytes can be moved out
            array = onnx.numpy_helper.to_array(weights)
            weights.CopyFrom(onnx.numpy_helper.from_array(array, weights.name))
        outside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
        onnx.save(student, graph, **outside)
        manifest["variants"][0]["sha256"] = sha256(graph)

    folder = write_model_dir(tmp_path / "toy", move_weights_out)
    assert (folder / "weights.bin").exists()
    with pytest.raises(ManifestError, match=r"model\.onnx cannot be opened"):
        load(folder)


def test_a_link_that_leads_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write_model_dir(tmp_path / "toy")
    (folder / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ManifestError, match="leads outside"):
        load(folder)


def test_a_path_that_leads_outside_the_folder_is_no_manifest(tmp_path: Path) -> None:
    folder = write_model_dir(tmp_path / "toy")
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(manifest.replace('"model.onnx"', '"../model.onnx"'))
    with pytest.raises(ManifestError, match="relative path inside"):
        load_manifest(folder)


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    folder = write_model_dir(tmp_path / "toy")
    write_graph(folder / "model.onnx", nudge=1e-3)
    with pytest.raises(ManifestError, match="the manifest says"):
        load(folder)


def test_a_head_that_the_graph_lacks_is_named(tmp_path: Path) -> None:
    def promise_more(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["tone"] = {"labels": ["good", "bad"]}

    with pytest.raises(ManifestError, match="lacks the outputs logits_tone"):
        load(write_model_dir(tmp_path / "toy", promise_more))


def test_cuda_is_never_replaced_by_the_cpu(tmp_path: Path) -> None:
    def for_cuda(manifest: dict[str, Any]) -> None:
        manifest["variants"][0]["target"] = "cuda"

    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine may have a CUDA device")
    with pytest.raises(VariantError, match="device cuda needs CUDAExecutionProvider"):
        load(write_model_dir(tmp_path / "toy", for_cuda), device="cuda")


def test_a_provider_that_turns_inactive_is_refused(
    toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime goes on with the CPU, with a warning, when CUDA cannot be opened."""
    import onnxruntime

    real_session, cpu = onnxruntime.InferenceSession, ["CPUExecutionProvider"]

    def fall_back(graph: bytes, options: object, providers: list[str]) -> object:
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        return real_session(graph, providers=cpu)

    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    available = ["CUDAExecutionProvider", *cpu]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    with pytest.raises(VariantError, match="CUDAExecutionProvider refused"):
        providers.open_session(toy_model_dir / "model.onnx", device="cuda", intra_op_threads=1)


def test_a_device_that_does_not_exist_is_refused(toy_model_dir: Path) -> None:
    with pytest.raises(VariantError, match="device 'tpu' is unknown; known: cpu, cuda"):
        load(toy_model_dir, device="tpu")


def a_variant(precision: str, target: str) -> Variant:
    return Variant(
        file=f"{precision}-{target}.onnx",
        sha256="0" * 64,
        bytes=1,
        precision=precision,
        target=target,
        tolerance=Tolerance(min_cosine=1, max_probability_error=0),
    )


ALL = [
    a_variant(*described)
    for described in (
        ("fp32", "cpu"),
        ("int8", "cpu"),
        ("int8", "cpu-avx2"),
        ("int8", "cpu-vnni"),
        ("fp32", "cuda"),
        ("fp16", "cuda"),
    )
]


@pytest.mark.parametrize(
    ("device", "precision", "features", "file"),
    [
        ("cpu", "auto", {"avx2", "avx512_vnni"}, "int8-cpu-vnni.onnx"),
        ("cpu", "auto", {"avx_vnni"}, "int8-cpu-vnni.onnx"),
        ("cpu", "auto", {"avx2"}, "int8-cpu-avx2.onnx"),
        ("cpu", "fp32", {"avx2"}, "fp32-cpu.onnx"),
        ("cuda", "auto", set(), "fp16-cuda.onnx"),
        ("cuda", "fp32", set(), "fp32-cuda.onnx"),
    ],
)
def test_the_best_variant_for_the_machine_is_chosen(
    device: Any,  # noqa: ANN401 - one of the literals
    precision: Any,  # noqa: ANN401 - one of the literals
    features: set[str],
    file: str,
) -> None:
    chosen = choose_variant(ALL, device=device, precision=precision, features=frozenset(features))
    assert chosen.file == file


def test_where_no_variant_fits_those_there_are_are_listed() -> None:
    message = (
        "no variant has precision fp16 and target cpu-avx2 or cpu; .* holds: int8 for cpu-vnni"
    )
    with pytest.raises(VariantError, match=message):
        choose_variant([ALL[3]], device="cpu", precision="fp16", features=frozenset())


def test_weights_of_full_range_are_not_run_without_vnni() -> None:
    with pytest.raises(VariantError):
        choose_variant([ALL[3]], device="cpu", precision="auto", features=frozenset({"avx2"}))


@pytest.mark.parametrize(
    ("precision", "runners", "arena", "spins"),
    [
        ("int8", 1, True, "0"),
        ("int8", 2, False, "0"),
        ("fp32", 1, True, "1"),
        ("fp32", 2, True, "0"),
    ],
)
def test_runs_side_by_side_do_not_spin_and_those_of_int8_share_no_arena(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    runners: int,
    arena: bool,
    spins: str,
) -> None:
    options: list[Any] = []
    made = providers.session_options
    monkeypatch.setattr(
        providers, "session_options", lambda *a, **k: options.append(made(*a, **k)) or options[-1]
    )
    folder = write_model_dir(tmp_path / "toy")
    manifest = load_manifest(folder)
    variants = [v.model_copy(update={"precision": precision}) for v in manifest.variants]
    StudentSession.load(
        folder,
        manifest.model_copy(update={"variants": variants}),
        device="cpu",
        precision=precision,
        intra_op_threads=1,
        runners=runners,
    )
    [used] = options
    assert used.enable_cpu_mem_arena == arena
    assert used.get_session_config_entry("session.intra_op.allow_spinning") == spins
    assert used.get_session_config_entry("session.intra_op.spin_duration_us") == "20"
    assert used.get_session_config_entry("session.force_spinning_stop") == "1"


def test_a_graph_without_token_types_is_not_given_any(tmp_path: Path) -> None:
    folder = write_model_dir(tmp_path / "toy")
    graph = onnx.load(folder / "model.onnx")
    types = next(each for each in graph.graph.input if each.name == "token_type_ids")
    graph.graph.input.remove(types)
    same_shape = onnx.helper.make_node("Sub", ["input_ids", "input_ids"], ["token_type_ids"])
    graph.graph.node.insert(0, same_shape)
    onnx.save(graph, folder / "model.onnx")
    manifest = load_manifest(folder)
    variant = manifest.variants[0].model_copy(update={"sha256": sha256(folder / "model.onnx")})
    save_manifest(folder, manifest.model_copy(update={"variants": (variant,)}))
    load(folder).self_test(tokenizer_of(folder))


def test_an_embedding_wider_than_what_the_graph_gives_is_refused(tmp_path: Path) -> None:
    folder = write_model_dir(tmp_path / "toy")
    described = describe(folder) | {"embedding_dimension": 5}
    for golden in described["golden"]:
        golden["embedding"] = [*golden["embedding"], 0]
    (folder / "manifest.json").write_text(json.dumps(described))
    with pytest.raises(ManifestError, match=r"embedding_dimension is 5; .* it has 4"):
        load_manifest(folder)


def test_a_manifest_that_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(ManifestError, match=r"manifest\.json is no regular file"):
        load_manifest(tmp_path)


def test_a_model_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"manifest\.json cannot be read: Not a directory"):
        load_manifest(tmp_path / "model")


def test_no_second_copy_of_the_weights_is_kept(toy_model_dir: Path) -> None:
    assert load(toy_model_dir)._session._model_bytes is None
