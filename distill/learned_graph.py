"""A student's graph in int8 by steps that were learned, in one of two forms.

- `qdq`: QuantizeLinear and DequantizeLinear around standard products. Any runtime can read it, and
  those that know the pattern fuse it. Attention is taken apart for it, as the fused operator of
  ONNX Runtime has no such form: its three projections become one product of their own.
- `fused`: the operators of ONNX Runtime that `distill.int8` writes too.

Both say the same; how fast they are is in NOTES.md.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import onnx

from distill.evidence import shrink_evidence
from distill.lsq import Learned
from distill.rewrite import Rewriter, attribute
from distill.word_table import (
    EMBEDDING,
    Block,
    QuantizeError,
    require_known,
    write_normalised,
    write_sum,
)

Form = Literal["qdq", "fused"]


def with_steps(
    model: onnx.ModelProto, products: Sequence[Learned], *, form: Form, block: Block = "row"
) -> onnx.ModelProto:
    """Return a copy whose products are int8, by what was learned of each.

    Args:
        model: as `distill.graph` writes it, with the trained weights.
        products: in the order of the graph.
        form: see above; both also get an int8 word table.
        block: which values of the word table share a scale.

    Raises:
        QuantizeError: the graph does not have these products, or its word table is not known.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    require_known(copy)
    shrink_evidence(copy)
    graph = Rewriter(copy)
    left = list(products)
    for node in graph.nodes:
        if node.op_type == EMBEDDING:
            write_normalised(graph, node, write_sum(graph, node, block=block, for_cuda=False))
        elif _is_product(graph, node):
            _check(graph, node, left)
            _WRITERS[form, node.op_type](graph, node, _Named(graph, node, left.pop(0)))
        else:
            graph.keep(node)
    if left:
        raise QuantizeError(f"{len(left)} of {len(products)} learned products are not in the graph")
    graph.finish()
    return copy


def _is_product(graph: Rewriter, node: onnx.NodeProto) -> bool:
    return node.op_type == "Attention" or (
        node.op_type == "MatMul" and graph.is_constant(node.input[1])
    )


def _check(graph: Rewriter, node: onnx.NodeProto, left: list[Learned]) -> None:
    shape = graph.array(node.input[1]).shape
    if not left or tuple(left[0].weight.shape) != shape:
        found = tuple(left[0].weight.shape) if left else "none"
        raise QuantizeError(f"{node.name} has a weight of {shape}; learned was {found}")


class _Named:
    """The constants of a product in the graph, by name."""

    def __init__(self, graph: Rewriter, node: onnx.NodeProto, product: Learned) -> None:
        name = node.output[0]
        zeros = np.zeros(product.weight.shape[1], dtype=np.int8)
        self.scale = graph.constant(f"{name}_scale", np.float32(product.scale))
        self.zero = graph.constant(f"{name}_zero", np.uint8(product.zero))
        self.weight = graph.constant(f"{name}_steps", product.weight.numpy())
        self.weight_scales = graph.constant(f"{name}_scales", product.weight_scales.numpy())
        self.weight_zeros = graph.constant(f"{name}_zeros", zeros)
        self.steps = graph.write(
            "QuantizeLinear", [node.input[0], self.scale, self.zero], f"{name}_in_steps"
        )


def _fused_attention(graph: Rewriter, node: onnx.NodeProto, by: _Named) -> None:
    bias, mask = node.input[2:4]
    inputs = [by.steps, by.weight, bias, by.scale, by.weight_scales, mask, by.zero, by.weight_zeros]
    heads = attribute(node, "num_heads")
    graph.write("QAttention", inputs, node.output[0], num_heads=heads)


def _fused_product(graph: Rewriter, node: onnx.NodeProto, by: _Named) -> None:
    inputs = [by.steps, by.weight, by.scale, by.weight_scales, by.zero, by.weight_zeros]
    graph.write("MatMulIntegerToFloat", inputs, node.output[0])


def _qdq_attention(graph: Rewriter, node: onnx.NodeProto, by: _Named) -> None:
    bias, mask = node.input[2:4]
    name = node.output[0]
    joined = _qdq(graph, by, f"{name}_joined")  # (B, T, 3 H)
    parts = graph.write_many("Split", [joined], [f"{name}_{p}" for p in "qkv"], axis=2)
    heads = attribute(node, "num_heads")
    graph.write("MultiHeadAttention", [*parts, bias, mask], name, num_heads=heads)


def _qdq_product(graph: Rewriter, node: onnx.NodeProto, by: _Named) -> None:
    _qdq(graph, by, node.output[0])


def _qdq(graph: Rewriter, by: _Named, output: str) -> str:
    values = graph.write("DequantizeLinear", [by.steps, by.scale, by.zero], f"{output}_in")
    constants = [by.weight, by.weight_scales, by.weight_zeros]
    weight = graph.write("DequantizeLinear", constants, f"{output}_weight", axis=1)
    return graph.write("MatMul", [values, weight], output)


_WRITERS: dict[tuple[Form, str], Callable[[Rewriter, onnx.NodeProto, _Named], None]] = {
    ("fused", "Attention"): _fused_attention,
    ("fused", "MatMul"): _fused_product,
    ("qdq", "Attention"): _qdq_attention,
    ("qdq", "MatMul"): _qdq_product,
}
