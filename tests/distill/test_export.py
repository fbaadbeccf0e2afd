import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_encoder import LAYERS, TEXTS, WIDTH, a_head, write_encoder, write_encoder_with_heads

from app.errors import ManifestError, SelfTestError, TextTooLongError
from app.runtime.artifact import load_manifest, verify_file
from app.runtime.providers import open_session
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer
from distill import export as verb
from distill.export import GRAPH_FILE, Card, ExportError, export_student
from distill.graph import FusionError, write_graph
from distill.heads import HeadError, load_heads, save_head
from distill.parity import ParityError
from distill.teacher import load_teacher
from distill.variants import source_of

MAX_TOKENS = 48
Arrays = dict[str, np.ndarray]


def a_card(**changes: object) -> Card:
    settings = {
        "name": "tiny",
        "revision": "1",
        "license": "Apache-2.0",
        "languages": ("en", "de"),
        "max_tokens": MAX_TOKENS,
        "golden_texts": TEXTS,
        "recipe": "tiny.toml",
        "recipe_sha256": "0" * 64,
    }
    return Card(**settings | changes)


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder_with_heads(tmp_path_factory.mktemp("export") / "encoder")


@pytest.fixture(scope="module")
def model_dir(encoder_dir: Path) -> Path:
    folder = encoder_dir.parent / "model"
    export_student(encoder_dir, folder, card=a_card(), min_cosine=0.9999)
    return folder


def run_graph(graph: Path, feeds: Arrays) -> Arrays:
    session = open_session(graph, device="cpu", intra_op_threads=1)
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def a_batch(mask: np.ndarray) -> Arrays:
    ids = np.random.default_rng(0).integers(5, 50, mask.shape)
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64)}


def counts(graph: Path) -> dict[str, int]:
    kinds = [node.op_type for node in onnx.load(graph).graph.node]
    return {kind: kinds.count(kind) for kind in set(kinds)}


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((1, 1)),
        np.arange(11) < np.array([[11], [1], [4], [7]]),
        np.arange(MAX_TOKENS) < np.array([[3], [MAX_TOKENS]]),
        np.array([[1, 0, 1, 1, 0, 1], [0, 0, 0, 1, 1, 1]]),
    ],
    ids=["one token", "padded on the right", "as long as the model allows", "with holes"],
)
def test_pooled_is_the_mean_of_torch_hidden_states_where_the_mask_is_1(
    encoder_dir: Path, model_dir: Path, mask: np.ndarray
) -> None:
    batch = a_batch(mask)
    with torch.inference_mode():
        hidden = load_teacher(str(encoder_dir))(
            **{name: torch.from_numpy(array) for name, array in batch.items()}
        ).last_hidden_state.numpy()
    expected = np.stack(
        [row[real == 1].mean(axis=0) for row, real in zip(hidden, mask, strict=True)]
    )
    found = run_graph(model_dir / GRAPH_FILE, batch)["pooled"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_logits_are_those_of_the_saved_heads(encoder_dir: Path, model_dir: Path) -> None:
    found = run_graph(model_dir / GRAPH_FILE, a_batch(np.ones((3, 9))))
    heads = load_heads(encoder_dir)
    assert set(found) == {"pooled", *(f"logits_{task}" for task in heads)}
    for task, head in heads.items():
        expected = head(torch.from_numpy(found["pooled"])).numpy()
        assert found[f"logits_{task}"].dtype == np.float32
        np.testing.assert_allclose(found[f"logits_{task}"], expected, atol=1e-5)


def test_a_text_gives_the_same_alone_and_beside_longer_ones(model_dir: Path) -> None:
    manifest = load_manifest(model_dir)
    tokenizer = Tokenizer.load(model_dir / "tokenizer.json", max_tokens=MAX_TOKENS)
    session = StudentSession.load(
        model_dir, manifest, device="cpu", precision="fp32", intra_op_threads=1
    )
    together = session.run(tokenizer.encode(TEXTS, truncate=False))
    for index, text in enumerate(TEXTS):
        alone = session.run(tokenizer.encode([text], truncate=False))
        for name, rows in alone.items():
            np.testing.assert_allclose(together[name][index], rows[0], atol=2e-5)


def test_every_layer_is_fused_and_gelu_is_exact(model_dir: Path) -> None:
    found = counts(model_dir / GRAPH_FILE)
    assert found["EmbedLayerNormalization"] == 1
    assert found["MultiHeadAttention"] == found["Gelu"] == LAYERS
    # fused, and then taken apart again for the CPU
    assert found["LayerNormalization"] == 2 * LAYERS
    assert not {"SkipLayerNormalization", "BiasGelu", "Erf"} & found.keys()
    assert not found.keys() & {"Softmax", "FastGelu"}


def test_no_shape_arithmetic_is_left_for_a_gpu_to_hand_back(model_dir: Path) -> None:
    padded = source_of(model_dir).graph
    found = {node.op_type for node in padded.graph.node}
    assert "Attention" in found
    assert not found & {"Shape", "Expand", "ConstantOfShape", "NonZero"}


def test_an_activation_that_does_not_fuse_is_refused(tmp_path: Path) -> None:
    encoder_dir = write_encoder(tmp_path / "encoder", hidden_act="relu")
    with pytest.raises(FusionError, match=r"2 layers .*: BiasGelu 0 of 2"):
        export_student(encoder_dir, tmp_path / "model", card=a_card(), min_cosine=0.9)
    assert not any(tmp_path.glob("model*"))


def test_a_gelu_of_another_formula_is_refused(tmp_path: Path) -> None:
    encoder_dir = write_encoder(tmp_path / "encoder", hidden_act="gelu_new")
    with pytest.raises(FusionError, match="FastGelu 2 of 0"):
        export_student(encoder_dir, tmp_path / "model", card=a_card(), min_cosine=0.9)


def test_the_manifest_tells_the_whole_story(encoder_dir: Path, model_dir: Path) -> None:
    manifest = load_manifest(model_dir)
    heads = load_heads(encoder_dir)
    assert (manifest.hidden_width, manifest.max_tokens) == (WIDTH, MAX_TOKENS)
    assert manifest.tasks == {task: head.as_task() for task, head in heads.items()}
    assert manifest.provenance.teacher == "a-teacher"
    assert manifest.provenance.data_fingerprint == "f1a9"
    assert [golden.text for golden in manifest.golden] == list(TEXTS)
    for golden in manifest.golden:
        assert np.linalg.norm(golden.embedding) == pytest.approx(1, abs=1e-5)
        assert sum(golden.probabilities["topic"]) == pytest.approx(1, abs=1e-5)
    [variant] = manifest.variants
    assert variant.bytes == (model_dir / GRAPH_FILE).stat().st_size
    for entry in (variant, manifest.tokenizer):
        verify_file(model_dir, entry)


def test_an_exported_folder_passes_its_own_self_test(model_dir: Path) -> None:
    manifest = load_manifest(model_dir)
    tokenizer = Tokenizer.load(model_dir / "tokenizer.json", max_tokens=MAX_TOKENS)
    settings = {"device": "cpu", "precision": "auto", "intra_op_threads": 1}
    StudentSession.load(model_dir, manifest, **settings).self_test(tokenizer)
    mirrored = tuple(
        golden.model_copy(update={"embedding": golden.embedding[::-1]})
        for golden in manifest.golden
    )
    altered = manifest.model_copy(update={"golden": mirrored})
    with pytest.raises(SelfTestError, match=r"golden\[0\]"):
        StudentSession.load(model_dir, altered, **settings).self_test(tokenizer)


def test_a_graph_altered_by_one_bit_is_not_opened(model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(model_dir, folder)
    graph = bytearray((folder / GRAPH_FILE).read_bytes())
    graph[len(graph) // 2] ^= 1
    (folder / GRAPH_FILE).write_bytes(graph)
    with pytest.raises(ManifestError, match="sha256"):
        StudentSession.load(
            folder, load_manifest(folder), device="cpu", precision="fp32", intra_op_threads=1
        )


def test_the_same_encoder_gives_the_same_bytes(
    encoder_dir: Path, model_dir: Path, tmp_path: Path
) -> None:
    again = export_student(encoder_dir, tmp_path / "again", card=a_card(), min_cosine=0.9999)
    assert again.variants == load_manifest(model_dir).variants


def test_a_pair_head_brings_segments_into_the_graph(tmp_path: Path) -> None:
    encoder_dir = write_encoder(tmp_path / "encoder")
    save_head(encoder_dir, a_head("entails", pair=True))
    pairs = ("a dog", ("a dog", "the cat"), ("the cat", "a dog"))
    card = a_card(golden_texts=pairs)
    manifest = export_student(encoder_dir, tmp_path / "model", card=card, min_cosine=0.9999)
    assert manifest.golden[1].text_pair == "the cat"
    inputs = [entry.name for entry in onnx.load(tmp_path / "model" / GRAPH_FILE).graph.input]
    assert inputs == ["input_ids", "attention_mask", "token_type_ids"]
    batch = a_batch(np.ones((1, 6)))
    one, other = (
        run_graph(tmp_path / "model" / GRAPH_FILE, batch | {"token_type_ids": types})["pooled"]
        for types in (np.array([[0, 0, 0, 0, 0, 0]]), np.array([[0, 0, 0, 1, 1, 1]]))
    )
    assert np.abs(one - other).max() > 0.01


def test_a_failed_export_leaves_the_older_folder_as_it_was(
    encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    export_student(encoder_dir, folder, card=a_card(), min_cosine=0.9999)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def write_another_graph(encoder: object, heads: object, path: Path) -> None:
        other = load_teacher(str(encoder_dir))
        torch.nn.init.zeros_(other.embeddings.position_embeddings.weight)
        write_graph(other, load_heads(encoder_dir), path)

    monkeypatch.setattr("distill.export.write_graph", write_another_graph)
    with pytest.raises(ParityError, match=r"texts\[\d\] has cosine"):
        export_student(encoder_dir, folder, card=a_card(revision="2"), min_cosine=0.9999)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_does_not_fit_together_is_refused_before_tracing(
    encoder_dir: Path, tmp_path: Path
) -> None:
    too_long = a_card(max_tokens=MAX_TOKENS + 1)
    with pytest.raises(ExportError, match="max_tokens 49 exceeds the encoder's 48 positions"):
        export_student(encoder_dir, tmp_path / "model", card=too_long, min_cosine=0.9)
    short = a_card(max_tokens=10)
    with pytest.raises(TextTooLongError, match=r"texts\[1\] has \d+ tokens"):
        export_student(encoder_dir, tmp_path / "model", card=short, min_cosine=0.9)
    other = tmp_path / "encoder"
    shutil.copytree(encoder_dir, other)
    save_head(other, a_head("wide", weight=torch.zeros(3, WIDTH * 2)))
    with pytest.raises(HeadError, match="head 'wide' reads width 64"):
        export_student(other, tmp_path / "model", card=a_card(), min_cosine=0.9)
    (other / "provenance.json").write_text('{"teacher": 3}')
    (other / "heads" / "wide.json").unlink()
    with pytest.raises(ExportError, match=r"provenance\.json"):
        export_student(other, tmp_path / "model", card=a_card(), min_cosine=0.9)


def test_code_that_was_changed_since_its_commit_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    for room in ("app", "distill"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text("a = 1\n")
    monkeypatch.setattr(verb, "CODE", tmp_path / "distill")
    assert verb._commit() == "unknown"
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "a")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "notes.md").write_text("no code\n")
    assert verb._commit() == commit
    (tmp_path / "app" / "a.py").write_text("a = 2\n")
    assert verb._commit() == f"{commit}-dirty"
