"""Leave padding out of a student's graph, and put it back.

Texts of a batch are padded to its longest. Between embedding and pooling everything but attention
treats tokens one by one, so there a row is taken for each real token, (B, T, H) becomes (N, H),
and only attention sees the rectangle again. What a batch costs is then its real tokens, whatever
their spread over texts. For CPUs only: how many rows there are is known only when the mask is,
for which a GPU would have to wait.

Shapes: B texts, T tokens of the longest, N real tokens of all, H width.
"""

from typing import NamedTuple

import numpy as np
import onnx

from distill.rewrite import Rewriter, attribute

NORMS = frozenset({"EmbedLayerNormalization", "LayerNormalization"})
BY_TOKEN = frozenset({"Add", "Gelu", "LayerNormalization", "MatMul"})
"""Operators of the body that treat tokens one by one, however many axes they lie on."""
MASK = "attention_mask"
OWN = "unpadded/"
"""What the names of all that is written here begin with."""
REAL, ROW, RECTANGLE = f"{OWN}real", f"{OWN}row", f"{OWN}rectangle"
"""At which of the B * T places the real tokens are, (N,); which row belongs to each place,
(B * T,); B and T."""
ENTERING, LEAVING = f"{OWN}entering", f"{OWN}leaving"
"""The body's first hidden state without padding, its last one with it."""


class _Body(NamedTuple):
    """Between embedding and pooling: what goes in, what comes out, what is made on the way."""

    enters: str
    leaves: str
    inside: frozenset[str]
    width: int


def without_padding(model: onnx.ModelProto) -> bool:
    """Take padding out of the graph, in place; False where it stays as it is.

    Known are bodies of attention and feed-forward: a convolution over tokens needs their
    neighbours. In fp32 only, for in int8 the copies to the rectangle and back cost as much as
    the padding (see NOTES.md).
    """
    graph = Rewriter(model)
    body = _body(graph)
    if body is None:
        return False
    for node in graph.nodes:
        output, inside = node.output[0], node.output[0] in body.inside
        _rename(node, *((body.enters, ENTERING) if inside else (body.leaves, LEAVING)))
        if inside and node.op_type == "Attention":
            _write_attention(graph, node, body.width)
        else:
            graph.keep(node)
        if output == body.enters:
            _write_places(graph)
            _take_real(graph, output, ENTERING, body.width)
        if output == body.leaves:
            _make_rectangle(graph, output, LEAVING, body.width)
    graph.finish()
    return True


def with_padding(model: onnx.ModelProto) -> None:
    """Undo `without_padding`, in place. A graph that has padding stays as it is."""
    graph = Rewriter(model)
    entering, leaving = graph.maker(f"{ENTERING}/all"), graph.maker(f"{LEAVING}/places")
    if entering is None or leaving is None:
        return
    for node in graph.nodes:
        output = node.output[0]
        attended = graph.maker(f"{OWN}{output}/attended")
        _rename(node, ENTERING, entering.input[0])
        _rename(node, LEAVING, leaving.input[0])
        if attended is not None:
            _write_fused(graph, attended, output)
        elif not output.startswith(OWN):
            graph.keep(node)
    graph.finish()


def _body(graph: Rewriter) -> _Body | None:
    norms = [node for node in graph.nodes if node.op_type in NORMS]
    if len(norms) < 2:
        return None
    enters, leaves = norms[0].output[0], norms[-1].output[0]
    after = {enters}
    for node in graph.nodes:
        if after.intersection(node.input):
            after.update(node.output)
    before = {leaves}
    for node in reversed(graph.nodes):
        if before.intersection(node.output):
            before.update(node.input)
    inside = after & before - {enters}
    kinds = {node.op_type for node in graph.nodes if node.output[0] in inside}
    if "Attention" not in kinds or not kinds <= BY_TOKEN | {"Attention"}:
        return None
    return _Body(enters, leaves, frozenset(inside), len(graph.array(norms[-1].input[1])))


def _rename(node: onnx.NodeProto, before: str, after: str) -> None:
    node.input[:] = [after if name == before else name for name in node.input]


def _write_places(graph: Rewriter) -> None:
    flat = graph.constant(f"{OWN}flat", np.array([-1]))
    first = graph.constant(f"{OWN}first", np.array(0))
    one = graph.constant(f"{OWN}one", np.array(1))
    graph.write("Shape", [MASK], RECTANGLE)
    mask = graph.write("Reshape", [MASK, flat], f"{OWN}mask")
    places = graph.write("NonZero", [mask], f"{REAL}/column")
    graph.write("Reshape", [places, flat], REAL)
    count = graph.write("CumSum", [mask, first], f"{ROW}/count")
    row = graph.write("Sub", [count, one], f"{ROW}/last")  # of padding: the last real one before it
    graph.write("Max", [row, first], ROW)


def _take_real(graph: Rewriter, rectangle: str, output: str, width: int) -> None:
    """(B, T, width) -> (N, width)."""
    shape = graph.constant(f"{OWN}{width}", np.array([-1, width]))
    places = graph.write("Reshape", [rectangle, shape], f"{_own(output)}/all")
    graph.write("Gather", [places, REAL], output, axis=0)


def _make_rectangle(graph: Rewriter, rows: str, output: str, width: int) -> str:
    """(N, width) -> (B, T, width); padding repeats the token before it, and is masked."""
    places = graph.write("Gather", [rows, ROW], f"{output}/places", axis=0)
    last = graph.constant(f"{OWN}wide/{width}", np.array([width]))
    shape = graph.write("Concat", [RECTANGLE, last], f"{output}/shape", axis=0)
    return graph.write("Reshape", [places, shape], output)


def _write_attention(graph: Rewriter, node: onnx.NodeProto, width: int) -> None:
    context = node.output[0]
    own = _own(context)
    hidden, weight, bias, mask = node.input[:4]
    product = graph.write("MatMul", [hidden, weight], f"{own}/product")
    rows = graph.write("Add", [product, bias], f"{own}/projected")
    joined = _make_rectangle(graph, rows, f"{own}/joined", 3 * width)
    parts = graph.write_many(
        "Split", [joined], [f"{own}/{part}" for part in ("queries", "keys", "values")], axis=2
    )
    given = {each.name: attribute(node, each.name) for each in node.attribute}
    attended = graph.write("MultiHeadAttention", [*parts, "", mask], f"{own}/attended", **given)
    _take_real(graph, attended, context, width)


def _write_fused(graph: Rewriter, attended: onnx.NodeProto, context: str) -> None:
    product, biased = (graph.maker(f"{OWN}{context}/{made}") for made in ("product", "projected"))
    assert product is not None, "written with the rest of its attention"
    assert biased is not None, "as above"
    hidden, weight = product.input
    given = {each.name: attribute(attended, each.name) for each in attended.attribute}
    inputs = [hidden, weight, biased.input[1], attended.input[4]]
    graph.write("Attention", inputs, context, **given)


def _own(name: str) -> str:
    return name if name.startswith(OWN) else OWN + name
