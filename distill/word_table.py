"""A word table in int8 inside a graph: steps, and one scale for each row or for each block of one.

The table is most of a multilingual student, and one scale for all of it would be set by its
longest row. A block's scale is set by its own largest value alone: finer, and four bytes each.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from app.errors import LightMBERTError
from app.runtime.outputs import Floats
from distill.rewrite import Rewriter, attribute

EMBEDDING = "EmbedLayerNormalization"
LARGEST_STEP = 127
Block = int | Literal["row"]
"""Values that share a scale: so many neighbours of a row, or all of it."""


class QuantizeError(LightMBERTError):
    """A graph cannot be made smaller as promised."""

    code = "quantize_failed"


@dataclass(frozen=True)
class Steps:
    """A table (V, H) in int8; a value is its step times the scale of its block."""

    steps: NDArray[np.int8]
    """(V, H)"""
    scales: Floats
    """(V, G): G blocks a row."""

    def values(self) -> Floats:
        """The table again, (V, H), each value off by half a step of its block at most."""
        blocks = self.steps.reshape(*self.scales.shape, -1) * self.scales[:, :, None]
        back: Floats = blocks.reshape(self.steps.shape)
        return back


def quantize_table(table: Floats, *, block: Block) -> Steps:
    """Round a table (V, H) to int8.

    Raises:
        QuantizeError: rows do not divide into such blocks.
    """
    rows, width = table.shape
    size = width if block == "row" else block
    if width % size:
        raise QuantizeError(f"rows of {width} do not divide into blocks of {size}")
    blocks = table.reshape(rows, -1, size)
    largest = np.abs(blocks).max(axis=2)  # (V, G)
    # A block of zeros, as padding has, keeps any scale.
    scales = np.where(largest > 0, largest / LARGEST_STEP, 1).astype(np.float32)
    steps = np.rint(blocks / scales[:, :, None]).astype(np.int8)
    return Steps(steps.reshape(rows, width), scales)


def require_known(model: onnx.ModelProto) -> None:
    """Refuse a graph of which a part would stay as it was, or not fit the rest.

    Raises:
        QuantizeError: it has a convolution, or not one EmbedLayerNormalization.
    """
    found = [node.op_type for node in model.graph.node]
    if "Conv" in found:
        raise QuantizeError(
            "the graph has dynamic convolutions; smaller forms are known for attention and "
            "feed-forward only, so it can be served in fp32 alone"
        )
    if found.count(EMBEDDING) != 1:
        raise QuantizeError(
            f"the graph has {found.count(EMBEDDING)} of {EMBEDDING}, in which the word table is "
            "looked for; a factorised one has no smaller form, and is small already"
        )


def write_sum(graph: Rewriter, node: onnx.NodeProto, *, block: Block, for_cuda: bool) -> str:
    """Write what an EmbedLayerNormalization adds up, its word table in int8; returns the sum.

    Args:
        graph: the node's.
        node: whose normalisation is left to the caller.
        block: see `quantize_table`.
        for_cuda: count positions without asking for a shape, which CUDA hands back to the CPU.
    """
    ids, types, words, positions, segments, *_ = node.input
    embedded = _write_words(graph, ids, quantize_table(graph.array(words), block=block))
    place = _write_places_on_cuda if for_cuda else _write_places
    embedded = graph.write("Add", [embedded, place(graph, ids, positions)], "placed")
    if types:
        segment = graph.write("Gather", [segments, types], "segment")
        embedded = graph.write("Add", [embedded, segment], "embedded")
    return embedded


def write_normalised(graph: Rewriter, node: onnx.NodeProto, embedded: str) -> None:
    """Write the normalisation of an EmbedLayerNormalization, of what was added up."""
    gamma, beta = node.input[5:7]
    epsilon = attribute(node, "epsilon")
    graph.write("LayerNormalization", [embedded, gamma, beta], node.output[0], epsilon=epsilon)


def _write_words(graph: Rewriter, ids: str, table: Steps) -> str:
    rows = graph.constant("word_rows", table.steps)
    scales = graph.constant("word_scales", table.scales)
    picked = graph.write("Gather", [rows, ids], "word_steps")
    steps = graph.write("Cast", [picked], "word_values", to=TensorProto.FLOAT)
    scale = graph.write("Gather", [scales, ids], "word_scale")  # (B, T, G)
    groups, width = table.scales.shape[1], table.steps.shape[1]
    if groups == 1:
        return graph.write("Mul", [steps, scale], "word")  # (B, T, H)
    apart = graph.constant("word_apart", np.array([0, 0, groups, width // groups]))
    together = graph.constant("word_together", np.array([0, 0, width]))
    last = graph.constant("word_last_axis", np.array([3]))
    blocks = graph.write("Reshape", [steps, apart], "word_blocks")
    each = graph.write("Unsqueeze", [scale, last], "word_block_scale")
    scaled = graph.write("Mul", [blocks, each], "word_scaled")
    return graph.write("Reshape", [scaled, together], "word")


def _write_places(graph: Rewriter, ids: str, positions: str) -> str:
    tokens = graph.write("Shape", [ids], "token_count", start=1, end=2)
    first = graph.constant("first_position", np.array([0]))
    return graph.write("Slice", [positions, first, tokens], "position")  # (T, H)


def _write_places_on_cuda(graph: Rewriter, ids: str, positions: str) -> str:
    nothing = graph.constant("no_id", np.int32(0))
    one = graph.constant("one_token", np.int32(1))
    narrow = graph.write("Cast", [ids], "ids_int32", to=TensorProto.INT32)
    zeros = graph.write("Mul", [narrow, nothing], "no_ids")
    ones = graph.write("Add", [zeros, one], "each_token")
    along = graph.constant("along_tokens", np.array(1))
    places = graph.write("CumSum", [ones, along], "place", exclusive=1)  # (B, T): 0, 1, 2, ...
    return graph.write("Gather", [positions, places], "position")  # (B, T, H)
