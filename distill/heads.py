"""Classification heads: one linear layer on the student's unit embedding, and how heads are kept.

A head reads the pooled vector after L2 normalisation, so that it sees exactly what `/embed`
gives to callers and no longer depends on the length of the vector, which quantization shifts
more than its direction. Logits are `unit @ weight.T + bias`: one matmul. The other kind, which
reads pieces, is in `distill.lexical_head`.

On disk a head is a pair of files in the encoder folder: `heads/<task>.safetensors` (its tensors)
and `heads/<task>.json` (the task as the manifest will state it, its kind, and its provenance).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from app.runtime.artifact import ClassificationTask
from distill.batches import Tokens
from distill.lexical_head import LexicalHead
from distill.stated import HeadError, Stated

__all__ = [
    "AnyHead",
    "Head",
    "HeadError",
    "LexicalHead",
    "load_heads",
    "logits_of",
    "require_fit",
    "save_head",
]

HEADS_FOLDER = "heads"


class LinearFile(ClassificationTask):
    """What `heads/<task>.json` holds of a `Head`."""

    kind: Literal["linear"] = "linear"
    provenance: dict[str, str]


class LexicalFile(ClassificationTask):
    """What `heads/<task>.json` holds of a `LexicalHead`."""

    kind: Literal["lexical"]
    vocabulary: str
    provenance: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Head(Stated):
    """A linear layer: C labels over embeddings of width H.

    Raises:
        HeadError: the tensors do not fit the labels, or the task cannot be stated in a manifest.
    """

    weight: Tensor
    """(C, H) float32."""
    bias: Tensor
    """(C,) float32."""

    def __post_init__(self) -> None:
        classes = len(self.labels)
        if self.weight.ndim != 2 or len(self.weight) != classes or self.bias.shape != (classes,):
            raise HeadError(
                f"head {self.task!r} has {classes} labels, weight {tuple(self.weight.shape)} and "
                f"bias {tuple(self.bias.shape)}; it needs ({classes}, H) and ({classes},)"
            )
        if self.weight.dtype != torch.float32 or self.bias.dtype != torch.float32:
            raise HeadError(
                f"head {self.task!r} is {self.weight.dtype}, {self.bias.dtype}; it must be float32"
            )
        super().__post_init__()

    def as_layer(self) -> nn.Linear:
        """Return the layer from unit embeddings (B, H) to logits (B, C), with copied weights."""
        classes, width = self.weight.shape
        layer = nn.Linear(width, classes)
        layer.load_state_dict({"weight": self.weight, "bias": self.bias})
        return layer

    def __call__(self, pooled: Tensor) -> Tensor:
        """Return logits (B, C) of pooled vectors (B, H), which are normalised here."""
        return functional.linear(functional.normalize(pooled, dim=-1), self.weight, self.bias)


AnyHead = Head | LexicalHead
_STATED: TypeAdapter[LinearFile | LexicalFile] = TypeAdapter(LinearFile | LexicalFile)


def logits_of(heads: Mapping[str, AnyHead], pooled: Tensor, tokens: Tokens) -> dict[str, Tensor]:
    """`logits_<task>` (B, C) of every head, of pooled vectors (B, H) and token ids (B, T)."""
    return {
        f"logits_{task}": head(tokens) if isinstance(head, LexicalHead) else head(pooled)
        for task, head in heads.items()
    }


def save_head(folder: Path, head: AnyHead) -> None:
    """Write a head into an encoder folder; its json, written last, makes it exist."""
    heads = folder / HEADS_FOLDER
    heads.mkdir(parents=True, exist_ok=True)
    stated = head.as_task().model_dump() | {"provenance": dict(head.provenance)}
    file: LinearFile | LexicalFile
    if isinstance(head, LexicalHead):
        tensors = {"table": head.table}
        file = LexicalFile(kind="lexical", vocabulary=head.vocabulary, **stated)
    else:
        tensors = {"weight": head.weight, "bias": head.bias}
        file = LinearFile(**stated)
    partial = heads / f"{head.task}.partial"
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(heads / f"{head.task}.safetensors")
    partial.write_text(file.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.replace(heads / f"{head.task}.json")


def load_heads(folder: Path) -> dict[str, AnyHead]:
    """Return the heads of an encoder folder by task, in the order of their names.

    Raises:
        HeadError: a head's files are malformed or do not belong together.
    """
    return {path.stem: _load_head(path) for path in sorted((folder / HEADS_FOLDER).glob("*.json"))}


def _load_head(path: Path) -> AnyHead:
    try:
        file = _STATED.validate_json(path.read_bytes())
        tensors = load_file(path.with_suffix(".safetensors"))
        stated = {"task": path.stem} | {name: of for name, of in file if name != "kind"}
        if isinstance(file, LexicalFile):
            return LexicalHead(**stated, table=tensors["table"])
        return Head(**stated, weight=tensors["weight"], bias=tensors["bias"])
    except (ValidationError, OSError, SafetensorError, KeyError) as error:
        raise HeadError(f"{path} and its .safetensors are not a head: {error!r}") from error


def require_fit(
    heads: Mapping[str, AnyHead], tokenizer: Tokenizer, *, width: int, rows: int
) -> None:
    """Refuse heads of another encoder than the one they lie beside.

    Args:
        heads: by task.
        tokenizer: the encoder's.
        width: of its embeddings.
        rows: of its word table.

    Raises:
        HeadError: one reads another width, or was fitted on the pieces of another tokenizer.
    """
    for task, head in heads.items():
        if isinstance(head, LexicalHead):
            head.require_fit(tokenizer, rows=rows)
        elif head.weight.shape[1] != width:
            raise HeadError(
                f"head {task!r} reads width {head.weight.shape[1]}; the encoder has {width}"
            )
