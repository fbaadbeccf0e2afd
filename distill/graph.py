"""The graph that is served: encoder, masked mean and heads, traced and then fused.

Traced through optimum's exporter with a configuration of our own, and fused by ONNX Runtime's
rules for BERT. What the fusions must yield is counted, because a pattern that changes with a
release of torch or transformers is not an error to them: the graph would just be slow.

A factorised word table stays two factors, a look-up and a product, where that at least halves its
bytes; otherwise it is multiplied out, which is faster and can be made int8.
"""

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.onnx_model import OnnxModel
from optimum.exporters.onnx import export as trace
from optimum.exporters.onnx.model_configs import BertOnnxConfig
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]  # public, though not in __all__
from transformers import BertConfig

from app.errors import LightMBERTError
from distill.anatomy import Encoder
from distill.embedding_graph import as_traced, fuse_loose_block
from distill.heads import AnyHead
from distill.lexical_head import LexicalLayer
from distill.lowering import split_slow_fusions

OPSET = 17


class FusionError(LightMBERTError):
    """ONNX Runtime did not recognise the encoder's pattern, so the graph would be slow."""

    code = "not_fused"


class StudentGraph(nn.Module):
    """Encoder, masked mean and heads as one module, which is what is traced."""

    def __init__(self, encoder: Encoder, heads: Mapping[str, AnyHead]) -> None:
        super().__init__()
        self.config: BertConfig = encoder.config  # optimum looks for it here
        self.encoder = encoder
        self.heads = nn.ModuleDict({task: head.as_layer() for task, head in heads.items()})

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return `pooled` (B, H) and `logits_<task>` (B, C) of token ids (B, T)."""
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=types
        ).last_hidden_state  # (B, T, H)
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
        pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)  # (B, H)
        # Not functional.normalize: it traces to a Shape and an Expand, which CUDA cannot run.
        unit = pooled / pooled.norm(dim=-1, keepdim=True).clamp(min=1e-12)  # (B, H)
        logits = {
            f"logits_{task}": head(input_ids, attention_mask)
            if isinstance(head, LexicalLayer)
            else head(unit)
            for task, head in self.heads.items()
        }
        return {"pooled": pooled} | logits


class StudentOnnxConfig(BertOnnxConfig):  # type: ignore[misc]  # optimum is untyped
    """Tells optimum the names and the axes of the student's graph."""

    def __init__(self, config: BertConfig, heads: Mapping[str, AnyHead]) -> None:
        super().__init__(config, task="feature-extraction")
        self._heads = heads

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        names = ["input_ids", "attention_mask"]
        if any(head.pair for head in self._heads.values()):
            names.append("token_type_ids")
        return {name: {0: "B", 1: "T"} for name in names}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {name: {0: "B"} for name in ["pooled", *(f"logits_{task}" for task in self._heads)]}


def write_graph(encoder: Encoder, heads: Mapping[str, AnyHead], path: Path) -> None:
    """Trace the student, fuse it, take apart what is slow fused, and write it to `path`.

    Raises:
        FusionError: a fusion did not take; names those that fall short.
    """
    config = StudentOnnxConfig(encoder.config, heads)
    traced = path.with_suffix(".traced")
    segments = "token_type_ids" in config.inputs
    with warnings.catch_warnings():
        # optimum 0.1 traces with TorchScript, which warns that it is old, and of every Python
        # value it makes a constant: those are checked by parity at other shapes than traced.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", TracerWarning)
        with as_traced(encoder, segments=segments) as block:
            trace(StudentGraph(encoder, heads).eval(), config, traced, opset=OPSET)
    if block.loose and not block.factorised:
        model = onnx.load(traced)
        fuse_loose_block(model)
        onnx.save(model, traced)
    graph = fused(traced, encoder.config, factorised=block.factorised)
    traced.unlink()
    if not segments and not block.loose:
        fold_segment(graph.model)
    split_slow_fusions(graph.model)
    graph.save_model_to_file(str(path))  # sorted, with the domain of the fused operators


def fused(traced: Path, config: BertConfig, *, factorised: bool) -> OnnxModel:
    """Apply ONNX Runtime's BERT fusions, all of which must take; gelu stays exact.

    Raises:
        FusionError: names each fused operator whose count is not as expected.
    """
    options = FusionOptions("bert")
    # The other format, one length per text, is right only for masks without holes and for
    # padding on the right; on the CPU it was not faster (see NOTES.md).
    options.use_raw_attention_mask(True)
    found = optimizer.optimize_model(
        str(traced),
        "bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        optimization_options=options,
        opt_level=0,
    )
    counts = found.get_fused_operator_statistics()
    # Whether a norm was fused with the sum before it is all the same: see `distill.lowering`.
    counts["LayerNormalization"] += counts.pop("SkipLayerNormalization")
    body: list[str] = getattr(config, "body", ["transformer"] * config.num_hidden_layers)
    expected = dict.fromkeys(counts, 0) | expected_operators(body, factorised=factorised)
    wrong = [f"{name} {counts[name]} of {n}" for name, n in expected.items() if counts[name] != n]
    if wrong:
        raise FusionError(f"{len(body)} layers were not fused as expected: {', '.join(wrong)}")
    return found


def expected_operators(body: list[str], *, factorised: bool) -> dict[str, int]:
    """How often each operator that fusion yields occurs in the graph of a body."""
    parts = Counter(
        part
        for kind in body
        for part in (("attention", "feed-forward") if kind == "transformer" else (kind,))
    )
    return {
        # its kernel looks rows up in a whole table; else the block ends in a norm of its own
        "EmbedLayerNormalization": 0 if factorised else 1,
        "LayerNormalization": parts.total() + factorised,
        "Attention": parts["attention"],
        "BiasGelu": parts["feed-forward"],
    }


def fold_segment(model: onnx.ModelProto) -> None:
    """Add segment 0 to the position table, where every text is of segment 0.

    Saves a table look-up and the Shape operators that make its ids.
    """
    graph = model.graph
    embed = next(node for node in graph.node if node.op_type == "EmbedLayerNormalization")
    _, segment_ids, _, positions, segments, *_ = embed.input
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    table = numpy_helper.to_array(tensors[positions]) + numpy_helper.to_array(tensors[segments])[0]
    tensors[positions].CopyFrom(numpy_helper.from_array(table, positions))
    embed.input[1] = embed.input[4] = ""
    graph.initializer.remove(tensors[segments])
    producers = {name: node for node in graph.node for name in node.output}
    while (node := producers.get(segment_ids)) is not None:
        graph.node.remove(node)
        segment_ids = node.input[0]
