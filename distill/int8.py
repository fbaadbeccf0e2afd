"""A student's graph in int8, for CPUs.

Weights have one scale per output channel. Activations are quantized in two ways, neither of
which looks at another text, so a text's result does not depend on its company in the batch:

- What leaves a normalisation or attention keeps one scale for all texts, found beforehand on
  calibration text. Its loud channels are first made quieter and their rows of the next weight
  louder, in equal parts: SmoothQuant (Xiao et al. 2022, arXiv:2211.10438, equation 4 with
  alpha 0.5). For attention the divisors go into the value projection and cost nothing.
- What leaves GELU differs too much from token to token, so each token has a scale of its own.

The word table is in `distill.word_table`. Kernels without VNNI add the products of each two
neighbouring rows of a weight in 16 bits, and saturate where the two have more than 128 steps
between them. There a column's scale leaves them no more, which is finer than 7 bits for each: both
are hardly ever at the extreme. With VNNI each has 8 bits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from app.runtime.outputs import Floats
from app.runtime.tokenizer import Encoded
from distill.calibration import Range, channel_ranges
from distill.evidence import shrink_evidence
from distill.rewrite import Rewriter, attribute
from distill.word_table import Block, QuantizeError, require_known, write_normalised, write_sum

LARGEST_ACTIVATION = 255
LARGEST_WEIGHT = 127
GELU_MINIMUM = 0.17
"""GELU is nowhere below -0.17."""
GELU_ZERO = 16
"""The step that stands for 0 behind GELU: -0.17 is at most so many steps below it."""


@dataclass(frozen=True)
class _Weight:
    """Names of a weight's constants: (H, N) int8, and a scale and a zero for each column."""

    steps: str
    scales: str
    zeros: str


@dataclass(frozen=True)
class _Activation:
    """Names of uint8 steps, of what one step is worth, and of the step that stands for 0."""

    steps: str
    scale: str
    zero: str


def int8(
    model: onnx.ModelProto, texts: Iterable[Encoded], *, saturates: bool, block: Block = "row"
) -> onnx.ModelProto:
    """Return a copy with int8 matrix products, an int8 word table and int8 lexical heads.

    Args:
        model: as `distill.graph` writes it.
        texts: calibration text.
        saturates: whether a processor without VNNI is to run it.
        block: which values of the word table share a scale.

    Raises:
        QuantizeError: the graph holds a product in a place that is not known here, is not of
            BERT's layers under one whole word table, or its rows do not divide into such blocks.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    require_known(copy)
    shrink_evidence(copy)
    products = _products(copy)
    ranges = dict(channel_ranges(copy, [node.input[0] for node in products], texts))
    quiet_contexts(copy, ranges)
    graph = Rewriter(copy)
    for node in graph.nodes:
        if node.op_type == "EmbedLayerNormalization":
            embedded = write_sum(graph, node, block=block, for_cuda=False)
            write_normalised(graph, node, embedded)
        elif node.op_type == "Attention":
            _write_attention(graph, node, ranges[node.input[0]], saturates=saturates)
        elif node in products:
            _write_product(graph, node, ranges[node.input[0]], saturates=saturates)
        else:
            graph.keep(node)
    graph.finish()
    return copy


def _products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    graph = Rewriter(model)
    products = [
        node
        for node in graph.nodes
        if node.op_type == "Attention"
        or (node.op_type == "MatMul" and graph.is_constant(node.input[1]))
    ]
    sources = {"EmbedLayerNormalization", "LayerNormalization", "Attention", "Gelu"}
    for node in products:
        maker = graph.maker(node.input[0])
        if maker is None or maker.op_type not in sources:
            found = "an input of the graph" if maker is None else maker.op_type
            raise QuantizeError(
                f"{node.name} multiplies {found}; known: {', '.join(sorted(sources))}"
            )
    return products


def smoothing(peak: Floats, weight: Floats) -> Floats:
    """What to divide activations by and multiply the rows of (H, N) `weight` with: (H,).

    Geometric mean 1, so that the whole becomes neither louder nor quieter.
    """
    loudness = np.maximum(peak, 1e-5) / np.maximum(np.abs(weight).max(axis=1), 1e-5)
    divisors = np.sqrt(loudness)
    quiet: Floats = (divisors / np.exp(np.log(divisors).mean())).astype(np.float32)
    return quiet


def quiet_contexts(model: onnx.ModelProto, ranges: dict[str, Range]) -> None:
    """Smooth what leaves attention, in place: a channel of it is a channel of the values."""
    graph = Rewriter(model)
    for node in graph.nodes:
        graph.keep(node)
        if node.op_type != "Attention":
            continue
        context = node.output[0]
        [product] = graph.users(context)
        after = graph.array(product.input[1])  # (H, N)
        divisors = smoothing(ranges[context].peak, after)
        before, bias = graph.array(node.input[1]).copy(), graph.array(node.input[2]).copy()
        width = len(after)
        before[:, -width:] /= divisors  # queries, keys, values
        bias[-width:] /= divisors
        graph.constant(node.input[1], before)
        graph.constant(node.input[2], bias)
        graph.constant(product.input[1], after * divisors[:, None])
        ranges[context] = ranges[context].over(divisors)
    graph.finish()


def _weight(graph: Rewriter, name: str, values: Floats, *, saturates: bool) -> _Weight:
    scales = weight_scales(values, saturates=saturates)
    return _Weight(
        graph.constant(f"{name}_steps", np.rint(values / scales).astype(np.int8)),
        graph.constant(f"{name}_scales", scales),
        graph.constant(f"{name}_zeros", np.zeros(len(scales), dtype=np.int8)),
    )


def weight_scales(weight: Floats, *, saturates: bool) -> Floats:
    """What a step is worth in each column of (H, N): (N,); 1 where all is as good as zero.

    Args:
        weight: any finite values.
        saturates: whether two neighbouring rows share 128 steps or have 127 each.
    """
    peak = loudest_pair(weight) if saturates else np.abs(weight).max(axis=0)
    least = LARGEST_WEIGHT * np.finfo(np.float32).tiny  # below it a step has too few digits
    scales: Floats = np.where(peak >= least, peak / LARGEST_WEIGHT, 1).astype(np.float32)
    return scales


def loudest_pair(weight: Floats) -> Floats:
    """The largest sum of magnitudes of two neighbouring rows (2i, 2i + 1) of (H, N): (N,).

    In steps it is at most 127, and one more by rounding: 255 * 128 is within 16 bits.
    """
    rows, columns = weight.shape
    pairs = np.abs(np.concatenate([weight, np.zeros((rows % 2, columns), weight.dtype)]))
    sums: Floats = pairs.reshape(-1, 2, columns).sum(axis=1).max(axis=0)
    return sums


def _fixed(graph: Rewriter, name: str, lies: Range) -> _Activation:
    """One scale for all texts; what lies outside the calibrated range is cut to it."""
    low, high = min(0.0, float(lies.low.min())), max(0.0, float(lies.high.max()))
    scale = np.float32((high - low) / LARGEST_ACTIVATION)
    zero = np.uint8(np.clip(round(-low / scale), 0, LARGEST_ACTIVATION))
    scale_name = graph.constant(f"{name}_scale", scale)
    zero_name = graph.constant(f"{name}_zero", zero)
    steps = graph.write("QuantizeLinear", [name, scale_name, zero_name], f"{name}_steps")
    return _Activation(steps, scale_name, zero_name)


def _smoothed(
    graph: Rewriter, node: onnx.NodeProto, lies: Range, *, saturates: bool
) -> tuple[_Activation, _Weight]:
    source, name = node.input[:2]
    weight = graph.array(name)
    divisors = smoothing(lies.peak, weight)
    inverse = graph.constant(f"{name}_quiet", 1 / divisors)
    quiet = graph.write("Mul", [source, inverse], f"{node.output[0]}_in")
    activation = _fixed(graph, quiet, lies.over(divisors))
    return activation, _weight(graph, name, weight * divisors[:, None], saturates=saturates)


def _write_attention(
    graph: Rewriter, node: onnx.NodeProto, lies: Range, *, saturates: bool
) -> None:
    _, _, bias, mask = node.input[:4]
    left, right = _smoothed(graph, node, lies, saturates=saturates)
    graph.write(
        "QAttention",
        [left.steps, right.steps, bias, left.scale, right.scales, mask, left.zero, right.zeros],
        node.output[0],
        num_heads=attribute(node, "num_heads"),
    )


def _write_product(graph: Rewriter, node: onnx.NodeProto, lies: Range, *, saturates: bool) -> None:
    source, name = node.input[:2]
    maker = graph.maker(source)
    if maker is not None and maker.op_type == "Gelu":
        _write_product_by_token(graph, node, saturates=saturates)
        return
    if maker is not None and maker.op_type == "Attention":  # smoothed by `quiet_contexts`
        left = _fixed(graph, source, lies)
        right = _weight(graph, name, graph.array(name), saturates=saturates)
    else:
        left, right = _smoothed(graph, node, lies, saturates=saturates)
    _multiply(graph, left, right, node.output[0])


def _write_product_by_token(graph: Rewriter, node: onnx.NodeProto, *, saturates: bool) -> None:
    """Scale = max(highest / 239, 0.17 / 16): then 16 stands for 0 whatever the token.

    ONNX Runtime multiplies with one zero for all rows, but the scale of a row can be put to its
    results afterwards.
    """
    source, name = node.input[:2]
    out = node.output[0]
    inner, outer = graph.array(name).shape
    share = graph.constant("gelu_share", np.float32(1 / (LARGEST_ACTIVATION - GELU_ZERO)))
    least = graph.constant("gelu_least_scale", np.float32(GELU_MINIMUM / GELU_ZERO))
    flat_shape = graph.constant("gelu_shape", np.array([-1, inner]))
    flat = graph.write("Reshape", [source, flat_shape], f"{source}_flat")  # (B * T, inner)
    highest = graph.write("ReduceMax", [flat], f"{source}_highest", axes=[-1], keepdims=0)
    needed = graph.write("Mul", [highest, share], f"{source}_needed")
    scales = graph.write("Max", [needed, least], f"{source}_scales")  # (B * T,)
    count = graph.write("Shape", [scales], f"{source}_count")
    sixteen = helper.make_tensor("zero", TensorProto.UINT8, [1], [GELU_ZERO])
    zeros = graph.write("ConstantOfShape", [count], f"{source}_zeros", value=sixteen)
    steps = graph.write("QuantizeLinear", [flat, scales, zeros], f"{source}_steps", axis=0)
    left = _Activation(
        steps,
        graph.constant("one", np.float32(1)),
        graph.constant("gelu_zero", np.uint8(GELU_ZERO)),
    )
    right = _weight(graph, name, graph.array(name), saturates=saturates)
    product = _multiply(graph, left, right, f"{out}_unscaled")
    last = graph.constant("last_axis", np.array([1]))
    column = graph.write("Unsqueeze", [scales, last], f"{source}_column")
    scaled = graph.write("Mul", [product, column], f"{out}_flat")
    texts_tokens = graph.write("Shape", ["input_ids"], f"{out}_texts_tokens")
    width = graph.constant("width", np.array([outer]))
    shape = graph.write("Concat", [texts_tokens, width], f"{out}_shape", axis=0)
    graph.write("Reshape", [scaled, shape], out)


def _multiply(graph: Rewriter, left: _Activation, right: _Weight, output: str) -> str:
    inputs: Sequence[str] = (
        left.steps, right.steps, left.scale, right.scales, left.zero, right.zeros
    )  # fmt: skip
    return graph.write("MatMulIntegerToFloat", list(inputs), output)
