"""Take apart the fused operators that ONNX Runtime computes value by value on CPUs.

Fusing saves trips through memory, but the CPU kernels of SkipLayerNormalization and BiasGelu
(1.31) are plain loops, while Add, LayerNormalization and Gelu are vectorised: apart they take a
quarter of the time (see NOTES.md). On CUDA ONNX Runtime fuses them again when it loads the graph.
"""

import onnx

from distill.rewrite import Rewriter, attribute


def split_slow_fusions(model: onnx.ModelProto) -> None:
    """Replace, in place, SkipLayerNormalization and BiasGelu by their parts."""
    graph = Rewriter(model)
    for node in graph.nodes:
        if node.op_type == "SkipLayerNormalization":
            _split_skip(graph, node)
        elif node.op_type == "BiasGelu":
            hidden, bias = node.input
            biased = graph.write("Add", [hidden, bias], f"{hidden}_biased")
            graph.write("Gelu", [biased], node.output[0])
        else:
            graph.keep(node)
    graph.finish()


def _split_skip(graph: Rewriter, node: onnx.NodeProto) -> None:
    branch, skip, gamma, beta, *bias = node.input
    if bias:
        branch = graph.write("Add", [branch, *bias], f"{branch}_biased")
    total = graph.write("Add", [branch, skip], f"{node.output[0]}_sum")
    epsilon = attribute(node, "epsilon")
    graph.write("LayerNormalization", [total, gamma, beta], node.output[0], epsilon=epsilon)
