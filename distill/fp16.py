"""A student's graph in half precision, for CUDA."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from distill.evidence import shrink_evidence
from distill.rewrite import Rewriter
from distill.word_table import (
    EMBEDDING,
    Block,
    QuantizeError,
    require_known,
    write_normalised,
    write_sum,
)

BODY = frozenset(
    {"EmbedLayerNormalization", "Attention", "MatMul", "Add", "LayerNormalization", "Gelu"}
)
"""Operators of the encoder: fp16 in the fp16 variant. Pooling and heads stay fp32."""


def fp16(model: onnx.ModelProto, *, block: Block | None = None) -> onnx.ModelProto:
    """Return a copy whose encoder is fp16; pooling, heads and outputs stay fp32.

    But for tables of lexical heads: they are int8.

    With a block the word table is int8, a scale for each: half the size of the file. What is
    looked up is added up in fp32, and cast before it is normalised.

    Not by onnxruntime.transformers.float16: told to leave pooling alone, version 1.31 casts
    one tensor twice under one name, and the graph does not load. The encoder begins at
    integers and ends in one hidden state, so one cast is all that it takes.

    Raises:
        QuantizeError: a weight is too large for fp16; the graph is not of BERT's layers under one
            whole word table; or its rows do not divide into such blocks.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    require_known(copy)
    shrink_evidence(copy)
    if block is not None:
        _shrink_table(copy, block)
    graph = copy.graph
    body = [node for node in graph.node if node.op_type in BODY]
    weights = {name for node in body for name in node.input}
    for tensor in graph.initializer:
        if tensor.name in weights and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(_halved(tensor))
    hidden = body[-1].output[0]
    for node in graph.node:
        if node.op_type not in BODY:
            node.input[:] = [f"{name}_fp32" if name == hidden else name for name in node.input]
    cast = helper.make_node("Cast", [hidden], [f"{hidden}_fp32"], to=TensorProto.FLOAT)
    graph.node.insert(list(graph.node).index(body[-1]) + 1, cast)
    del graph.value_info[:]
    return copy


def _shrink_table(model: onnx.ModelProto, block: Block) -> None:
    graph = Rewriter(model)
    for node in graph.nodes:
        if node.op_type != EMBEDDING:
            graph.keep(node)
            continue
        embedded = write_sum(graph, node, block=block, for_cuda=True)
        half = graph.write("Cast", [embedded], "embedded_fp16", to=TensorProto.FLOAT16)
        write_normalised(graph, node, half)
    graph.finish()


def _halved(tensor: onnx.TensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    limit = float(np.finfo(np.float16).max)
    if not np.abs(values).max() <= limit:
        raise QuantizeError(f"{tensor.name} holds {np.abs(values).max():g}; fp16 ends at {limit:g}")
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)
