"""A student's graph in fewer bits: int8 for CPUs, fp16 for CUDA.

int8: matrix products have one scale per output channel and weights of 7 bits, because
kernels without VNNI add pairs of products in 16 bits and saturate on more. The word table,
most of a multilingual student, has one scale per row: one for all would be set by its longest
row. Activations are scaled as they come, by what is in the batch.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from app.errors import LightMBERTError
from app.runtime.outputs import Floats

BODY = frozenset(
    {"EmbedLayerNormalization", "Attention", "MatMul", "SkipLayerNormalization", "BiasGelu"}
)
"""Operators of the encoder: fp16 in the fp16 variant. Pooling and heads stay fp32."""
LARGEST_ROW_VALUE = 127
LARGEST_WEIGHT = 64
"""7 bits: 2 x 255 x 64 fits into 16 bits, 2 x 255 x 127 does not."""


class QuantizeError(LightMBERTError):
    """A graph cannot be made smaller as promised."""

    code = "quantize_failed"


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with int8 matrix products and an int8 word table.

    Raises:
        QuantizeError: a product was left in fp32, or has weights of more than 7 bits.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantize_word_table(copy)
    products = [node.name for node in copy.graph.node if node.op_type in {"MatMul", "Attention"}]
    # ONNX Runtime advises to pre-process and warns otherwise; the graph is fused already.
    copy.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            copy,
            path,
            nodes_to_quantize=products,  # by name: of the heads it makes more of them
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            # Shapes are not inferred through fused operators; all of them yield floats.
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )
        small = onnx.load(path)
    _require_reduced(small, products=len(products))
    return small


def quantize_rows(table: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return a table (V, H) as int8 and a scale per row (V, 1); no value is off by more than half."""
    largest = np.abs(table).max(axis=1, keepdims=True)
    # A row of zeros, as padding has, keeps any scale.
    scales = np.where(largest > 0, largest / LARGEST_ROW_VALUE, 1).astype(np.float32)
    return np.rint(table / scales).astype(np.int8), scales


def quantize_word_table(model: onnx.ModelProto) -> None:
    """Take EmbedLayerNormalization apart and store its word table as int8.

    The fused operator knows one scale per table only. Apart it costs nothing: the look-up is
    a small part of a forward pass, and fewer bytes are read.
    """
    graph = model.graph
    at = next(i for i, n in enumerate(graph.node) if n.op_type == "EmbedLayerNormalization")
    embed = graph.node[at]
    ids, types, words, positions, segments, gamma, beta, *_ = embed.input
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    rows, scales = quantize_rows(numpy_helper.to_array(tensors[words]))
    constants = {
        "word_rows": rows,
        "word_scales": scales,
        "first_position": np.array([0]),
    }
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in constants.items())
    graph.initializer.remove(tensors[words])
    epsilon = next(a.f for a in embed.attribute if a.name == "epsilon")
    make = helper.make_node
    nodes = [
        make("Gather", ["word_rows", ids], ["word_int8"]),
        make("Cast", ["word_int8"], ["word_steps"], to=TensorProto.FLOAT),
        make("Gather", ["word_scales", ids], ["word_scale"]),
        make("Mul", ["word_steps", "word_scale"], ["word"]),  # (B, T, H)
        make("Shape", [ids], ["token_count"], start=1, end=2),
        make("Slice", [positions, "first_position", "token_count"], ["position"]),  # (T, H)
        make("Add", ["word", "position"], ["placed" if types else "embedded"]),
    ]
    if types:
        nodes += [
            make("Gather", [segments, types], ["segment"]),
            make("Add", ["placed", "segment"], ["embedded"]),
        ]
    nodes.append(
        make("LayerNormalization", ["embedded", gamma, beta], [embed.output[0]], epsilon=epsilon)
    )
    before, after = list(graph.node[:at]), list(graph.node[at + 1 :])
    del graph.node[:]
    graph.node.extend([*before, *nodes, *after])


def fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose encoder is fp16; pooling, heads and outputs stay fp32.

    Not by onnxruntime.transformers.float16: told to leave pooling alone, version 1.31 casts
    one tensor twice under one name, and the graph does not load. The encoder begins at
    integers and ends in one hidden state, so one cast is all that it takes.

    Raises:
        QuantizeError: a weight is too large for fp16.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
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


def _halved(tensor: onnx.TensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    limit = float(np.finfo(np.float16).max)
    if not np.abs(values).max() <= limit:
        raise QuantizeError(f"{tensor.name} holds {np.abs(values).max():g}; fp16 ends at {limit:g}")
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _require_reduced(model: onnx.ModelProto, *, products: int) -> None:
    quantized = [n for n in model.graph.node if n.op_type in {"MatMulInteger", "QAttention"}]
    if len(quantized) != products:
        raise QuantizeError(f"{len(quantized)} of {products} matrix products became int8")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in quantized:
        largest = np.abs(numpy_helper.to_array(tensors[node.input[1]]).astype(np.int16)).max()
        if largest > LARGEST_WEIGHT:
            raise QuantizeError(
                f"{node.input[1]} holds {largest}; above {LARGEST_WEIGHT} AVX2 saturates"
            )
