"""What is left out of a graph changes nothing that comes out of it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoder import a_head, write_encoder

from app.runtime.outputs import Floats
from app.runtime.providers import open_session
from distill.fp16 import fp16
from distill.graph import write_graph
from distill.padding import with_padding, without_padding
from distill.student import student_of
from distill.tables.student import StudentTable
from distill.teacher import load_teacher

VOCABULARY = 50


class Graphs:
    """One student with its padding and without; its pair head reads segments."""

    def __init__(self, folder: Path) -> None:
        start = write_encoder(folder / "start")
        self.padded = folder / "padded.onnx"
        self.flat = folder / "flat.onnx"
        write_graph(load_teacher(str(start)), {"same": a_head("same", pair=True)}, self.padded)
        model = onnx.load(self.padded)
        assert without_padding(model)
        onnx.save(model, self.flat)
        self._sessions = [
            open_session(graph, device="cpu", intra_op_threads=1)
            for graph in (self.padded, self.flat)
        ]

    def run(self, mask: np.ndarray) -> list[list[Floats]]:
        """Outputs of both, for random ids."""
        random = np.random.default_rng(3)
        feed = {
            "input_ids": random.integers(5, VOCABULARY, mask.shape),
            "attention_mask": mask.astype(np.int64),
            "token_type_ids": random.integers(0, 2, mask.shape),
        }
        return [session.run(None, feed) for session in self._sessions]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    return Graphs(tmp_path_factory.mktemp("padding"))


def same(found: list[list[Floats]]) -> None:
    for padded, flat in zip(*found, strict=True):
        np.testing.assert_allclose(flat, padded, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 24), min_size=1, max_size=9))
def test_texts_of_any_lengths_give_the_same(graphs: Graphs, lengths: list[int]) -> None:
    same(graphs.run(np.arange(max(lengths)) < np.array(lengths)[:, None]))


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=4))
def test_masks_with_holes_give_the_same(graphs: Graphs, rows: list[list[bool]]) -> None:
    mask = np.array(rows)
    mask[:, -1] = True
    same(graphs.run(mask))


def test_products_see_real_tokens_only(graphs: Graphs) -> None:
    model = onnx.load(graphs.flat)
    shown = next(node for node in model.graph.node if node.op_type == "Gelu").output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(shown, 1, None))
    watched = graphs.flat.with_name("watched.onnx")
    onnx.save(model, watched)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    feed = dict.fromkeys(("input_ids", "token_type_ids"), np.zeros_like(mask))
    session = open_session(watched, device="cpu", intra_op_threads=1)
    [rows] = session.run([shown], feed | {"attention_mask": mask})
    assert len(rows) == 7


def test_padding_comes_back_whole(graphs: Graphs) -> None:
    before, model = onnx.load(graphs.padded), onnx.load(graphs.flat)
    with_padding(model)
    for one, other in zip(before.graph.node, model.graph.node, strict=True):
        assert (one.op_type, one.input, one.output) == (other.op_type, other.input, other.output)
        names = [sorted(each.name for each in node.attribute) for node in (one, other)]
        assert names[0] == names[1]
    tensors = [{t.name: t.raw_data for t in m.graph.initializer} for m in (before, model)]
    assert tensors[0] == tensors[1]
    fp16(model)  # which is what it comes back for


def test_what_has_padding_is_left_as_it_is(graphs: Graphs) -> None:
    model = onnx.load(graphs.padded)
    with_padding(model)
    assert model == onnx.load(graphs.padded)


def test_a_convolution_keeps_its_neighbours(tmp_path: Path) -> None:
    start = write_encoder(tmp_path / "start", num_hidden_layers=2)
    body = ("transformer", "dynamic-convolution")
    table = StudentTable(body=body, initialisation="bottom", embeddings="frozen")
    write_graph(student_of(str(start), table), {}, tmp_path / "graph.onnx")
    model = onnx.load(tmp_path / "graph.onnx")
    assert not without_padding(model)
    assert model == onnx.load(tmp_path / "graph.onnx")
