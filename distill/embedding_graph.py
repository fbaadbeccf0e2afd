"""The embedding block where ONNX Runtime's own rule does not see it.

That rule knows the block only below attention, and only with a whole table. Below another
sub-layer, or from a factorised table, the block is traced in a plainer form; a whole table's is
then fused here, so that later passes find one operator whatever the body is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertEmbeddings

from distill.anatomy import Encoder
from distill.layered import FactorisedTable
from distill.rewrite import Rewriter, attribute


class Block(NamedTuple):
    """How the embedding block is traced."""

    factorised: bool
    """Its word table is two factors in the graph."""
    loose: bool
    """It is in its plainer form."""


class LooseEmbeddings(nn.Module):
    """An embedding block as one sum; segment 0 is added to the positions where all texts have it."""

    positions: Tensor
    """(rows, H)"""

    def __init__(self, block: BertEmbeddings, *, segments: bool) -> None:
        super().__init__()
        self.table, self.norm = block.word_embeddings, block.LayerNorm
        positions = block.position_embeddings.weight.detach()
        kinds = block.token_type_embeddings
        self.segments = kinds if segments else None
        self.register_buffer("positions", positions if segments else positions + kinds.weight[0])

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """Ids and segments, (B, T) each -> (B, T, H)."""
        embedded: Tensor = self.table(input_ids) + self.positions[: input_ids.shape[1]]
        if self.segments is not None:
            embedded = embedded + self.segments(token_type_ids)
        normed: Tensor = self.norm(embedded)
        return normed


@contextmanager
def as_traced(encoder: Encoder, *, segments: bool) -> Iterator[Block]:
    """Give the encoder the embedding block that is to be traced, for the time of the context."""
    block, table = encoder.embeddings, encoder.embeddings.word_embeddings
    body = getattr(encoder.config, "body", ["transformer"])
    factorised = isinstance(table, FactorisedTable) and _pays(table)
    loose = factorised or body[0] not in ("attention", "transformer")
    try:
        if isinstance(table, FactorisedTable) and not factorised:
            block.word_embeddings = nn.Embedding.from_pretrained(table.weight.detach())
        if loose:
            encoder.embeddings = LooseEmbeddings(block, segments=segments)
        yield Block(factorised, loose)
    finally:
        block.word_embeddings, encoder.embeddings = table, block


def _pays(table: FactorisedTable) -> bool:
    """Whether two factors have at most half of the bytes of their product."""
    return 2 * sum(factor.numel() for factor in table.parameters()) <= table.weight.numel()


def fuse_loose_block(model: onnx.ModelProto) -> None:
    """Write a traced `LooseEmbeddings` over a whole table as one operator, in place."""
    graph = Rewriter(model)
    norm = next(node for node in graph.nodes if node.op_type == "LayerNormalization")
    upper, lower = _made(graph, norm.input[0]), []
    segments = ""
    if (top := _made(graph, upper.input[1])).op_type == "Gather":
        lower = [top]
        segments, upper = top.input[0], _made(graph, upper.input[0])
    words, position = (_made(graph, name) for name in upper.input)
    absorbed = [words, position, upper, _made(graph, norm.input[0]), *lower]
    for node in graph.nodes:
        if node == norm:
            _write(graph, norm, words.input[0], (position.input[0], segments))
        elif node not in absorbed:
            graph.keep(node)
    graph.finish()


def _made(graph: Rewriter, name: str) -> onnx.NodeProto:
    node = graph.maker(name)
    assert node is not None, f"{name} is no input of the graph"
    return node


def _write(graph: Rewriter, norm: onnx.NodeProto, words: str, tables: tuple[str, str]) -> None:
    ids = graph.write("Cast", ["input_ids"], "input_ids_int32", to=TensorProto.INT32)
    positions, segments = tables
    types = ""
    if segments:
        types = graph.write(
            "Cast", ["token_type_ids"], "token_type_ids_int32", to=TensorProto.INT32
        )
    graph.keep(
        helper.make_node(
            "EmbedLayerNormalization",
            [ids, types, words, positions, segments, *norm.input[1:]],
            [norm.output[0], "embedding_mask_index"],
            domain="com.microsoft",
            epsilon=attribute(norm, "epsilon"),
        )
    )
