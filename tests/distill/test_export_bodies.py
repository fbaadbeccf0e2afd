from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_encoder import TEXTS, a_head, roughen, write_encoder, write_family

from app.runtime.artifact import load_manifest
from app.runtime.providers import open_session
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer
from distill.batches import Tokens
from distill.checkpoint import save_encoder
from distill.export import GRAPH_FILE, Card, ExportError, export_student
from distill.graph import write_graph
from distill.heads import save_head
from distill.layered import FactorisedTable
from distill.student import student_of
from distill.tables.student import StudentTable
from distill.teacher import encode, load_teacher

CARD = Card("tiny", "1", "Apache-2.0", ("en",), 48, TEXTS, "r.toml", "0" * 64)
BODIES: dict[str, dict[str, object]] = {
    "BERT's order": {"body": ("attention", "feed-forward") * 2},
    "attention twice": {"body": ("attention", "attention", "feed-forward", "feed-forward")},
    "feed-forward first": {"body": ("feed-forward", "feed-forward", "attention", "attention")},
    "convolution first": {"body": ("dynamic-convolution", "attention", "feed-forward")},
    "convolution last": {"body": ("transformer", "dynamic-convolution")},
    "no attention": {"body": ("dynamic-convolution", "feed-forward")},
    "two small factors": {"layers": 2, "embeddings": "factorised", "rank": 8},
    "two large factors": {"layers": 2, "embeddings": "factorised", "rank": 30},
    "factors and convolution": {
        "body": ("dynamic-convolution", "attention"),
        "embeddings": "factorised",
        "rank": 8,
    },
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("bodies") / "start", num_hidden_layers=4)


def write_student(folder: Path, start: Path, **table: object) -> Path:
    whole = {"initialisation": "bottom", "embeddings": "frozen"} | table
    torch.manual_seed(4)
    student = student_of(str(start), StudentTable.model_validate(whole))
    roughen(student.encoder)
    save_encoder(folder, student, start / "tokenizer.json")
    return folder


def operators(graph: Path) -> dict[str, int]:
    kinds = [node.op_type for node in onnx.load(graph).graph.node]
    return {kind: kinds.count(kind) for kind in set(kinds)}


@dataclass(frozen=True)
class Exported:
    name: str
    encoder: Path
    model_dir: Path

    @property
    def graph(self) -> Path:
        return self.model_dir / GRAPH_FILE


@pytest.fixture(scope="module", params=BODIES)
def exported(
    request: pytest.FixtureRequest, start: Path, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    root = tmp_path_factory.mktemp("exported")
    folder = write_student(root / "encoder", start, **BODIES[request.param])
    save_head(folder, a_head("topic"))
    # the gate holds the graph to torch, each text alone and all in company
    export_student(folder, root / "model", card=CARD, min_cosine=0.99999)
    return Exported(request.param, folder, root / "model")


def test_an_exported_body_agrees_with_torch(exported: Exported) -> None:
    mask = np.arange(20) < np.array([[20], [3], [11]])
    ids = np.random.default_rng(0).integers(5, 50, mask.shape)
    session = open_session(exported.graph, device="cpu", intra_op_threads=1)
    feed = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    [found] = session.run(["pooled"], feed)
    with torch.inference_mode():
        hidden = load_teacher(str(exported.encoder))(
            **{key: torch.from_numpy(array) for key, array in feed.items()}
        ).last_hidden_state.numpy()
    expected = [row[real].mean(axis=0) for row, real in zip(hidden, mask, strict=True)]
    np.testing.assert_allclose(found, np.stack(expected), atol=5e-5)


def test_the_graph_holds_what_the_body_has(exported: Exported) -> None:
    found = operators(exported.graph)
    body = BODIES[exported.name].get("body", ("transformer",) * 2)
    assert isinstance(body, tuple)
    whole = body.count("transformer")
    factors = exported.name in ("two small factors", "factors and convolution")
    assert found.get("EmbedLayerNormalization", 0) == (not factors)
    # without padding, but where a convolution needs it
    attention = "Attention" if "dynamic-convolution" in body else "MultiHeadAttention"
    assert found.get(attention, 0) == whole + body.count("attention")
    assert found.get("Gelu", 0) == whole + body.count("feed-forward")
    assert found["LayerNormalization"] == len(body) + whole + factors
    assert found.get("Conv", 0) == body.count("dynamic-convolution")
    assert not found.keys() & {"SkipLayerNormalization", "BiasGelu", "Erf", "FastGelu"}


def test_the_folder_of_a_body_passes_its_self_test(exported: Exported) -> None:
    manifest = load_manifest(exported.model_dir)
    tokenizer = Tokenizer.load(exported.model_dir / "tokenizer.json", max_tokens=48)
    StudentSession.load(
        exported.model_dir, manifest, device="cpu", precision="fp32", intra_op_threads=1
    ).self_test(tokenizer)


def test_small_factors_make_a_small_graph_and_large_ones_a_whole_table(
    start: Path, tmp_path: Path
) -> None:
    shapes = {}
    for rank in (8, 30):
        table = {"layers": 2, "embeddings": "factorised", "rank": rank}
        folder = write_student(tmp_path / f"encoder-{rank}", start, **table)
        export_student(folder, tmp_path / "model", card=CARD, min_cosine=0.9999)
        graph = onnx.load(tmp_path / "model" / GRAPH_FILE).graph
        rows = load_teacher(str(folder)).config.vocab_size
        shapes[rank] = [list(t.dims) for t in graph.initializer if rows in t.dims]
    assert shapes == {8: [[rows, 8]], 30: [[rows, 32]]}


def test_export_leaves_the_encoder_as_it_was(start: Path, tmp_path: Path) -> None:
    for rank in (8, 30):
        table = {"layers": 1, "embeddings": "factorised", "rank": rank}
        folder = write_student(tmp_path / f"encoder-{rank}", start, **table)
        encoder = load_teacher(str(folder), attention="eager")
        before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        write_graph(encoder, {}, tmp_path / "graph.onnx")
        assert isinstance(encoder.embeddings.word_embeddings, FactorisedTable)
        after = encoder.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("name", ["feed-forward first", "two small factors", "BERT's order"])
def test_a_pair_head_tells_the_texts_of_a_pair_apart(
    start: Path, tmp_path: Path, name: str
) -> None:
    folder = write_student(tmp_path / "encoder", start, **BODIES[name])
    save_head(folder, a_head("entails", pair=True))
    pairs = ("a dog", ("a dog", "the cat"), ("the cat", "a dog"))
    card = Card("tiny", "1", "Apache-2.0", ("en",), 48, pairs, "r.toml", "0" * 64)
    export_student(folder, tmp_path / "model", card=card, min_cosine=0.9999)
    session = open_session(tmp_path / "model" / GRAPH_FILE, device="cpu", intra_op_threads=1)
    feed = {"input_ids": np.full((1, 6), 7), "attention_mask": np.ones((1, 6), dtype=np.int64)}
    one, other = (
        session.run(["pooled"], feed | {"token_type_ids": np.array([types])})[0]
        for types in ([0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1])
    )
    assert np.abs(one - other).max() > 0.01


def test_a_student_of_an_xlm_roberta_is_exported_and_its_start_is_not(tmp_path: Path) -> None:
    start = tmp_path / "start"
    write_family(start, "xlm-roberta")
    with pytest.raises(ExportError, match=r"of family 'xlm-roberta'; .* bert, lightmbert-layered"):
        export_student(start, tmp_path / "model", card=CARD, min_cosine=0.9999)
    table = StudentTable(layers=4, initialisation="bottom", embeddings="frozen")
    student = student_of(str(start), table)
    save_encoder(tmp_path / "student", student, start / "tokenizer.json")
    export_student(tmp_path / "student", tmp_path / "model", card=CARD, min_cosine=0.9999)
    session = open_session(tmp_path / "model" / GRAPH_FILE, device="cpu", intra_op_threads=1)
    ids = np.array([[0, 9, 8, 7, 2]])
    [found] = session.run(["pooled"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    tokens = Tokens(torch.from_numpy(ids), torch.ones(1, 5, dtype=torch.bool))
    with torch.inference_mode():
        expected = encode(load_teacher(str(start)), tokens).pooled.numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)
