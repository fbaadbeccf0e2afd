"""Tables of lexical heads in int8 inside a graph: steps, and one scale for each label.

A label's column has a scale of its own, so that sums of steps are sums of its values.
"""

import numpy as np
import onnx
from onnx import TensorProto

from distill.rewrite import Rewriter
from distill.word_table import LARGEST_STEP

TABLE = "table"
"""Of a lexical head, as `distill.lexical_head` names it."""


def shrink_evidence(model: onnx.ModelProto) -> None:
    """Write the look-up of every lexical head, in place, in int8: (V, C) steps and (C,) scales."""
    graph = Rewriter(model)
    for node in graph.nodes:
        if node.op_type == "Gather" and _is_evidence(node.input[0]):
            _write(graph, node)
        else:
            graph.keep(node)
    graph.finish()


def _is_evidence(name: str) -> bool:
    return name.startswith("heads.") and name.endswith(f".{TABLE}")


def _write(graph: Rewriter, node: onnx.NodeProto) -> None:
    name, ids = node.input
    table = graph.array(name)
    peak = np.abs(table).max(axis=0)
    scales = np.where(peak > 0, peak / LARGEST_STEP, 1).astype(np.float32)  # (C,)
    steps = graph.constant(f"{name}_steps", np.rint(table / scales).astype(np.int8))
    picked = graph.write("Gather", [steps, ids], f"{name}_picked")
    values = graph.write("Cast", [picked], f"{name}_values", to=TensorProto.FLOAT)
    scale = graph.constant(f"{name}_scales", scales)
    graph.write("Mul", [values, scale], node.output[0])
