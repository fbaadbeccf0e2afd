"""Classification heads: one linear layer on the student's unit embedding.

A head reads the pooled vector after L2 normalisation, so that it sees exactly what `/embed`
gives to callers and no longer depends on the length of the vector, which quantization shifts
more than its direction. Logits are `unit @ weight.T + bias`: one matmul.

On disk a head is a pair of files in the encoder folder: `heads/<task>.safetensors` (weight,
bias) and `heads/<task>.json` (the task as the manifest will state it, and its provenance).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from app.errors import LightMBERTError
from app.runtime.artifact import ClassificationTask, TaskName

HEADS_FOLDER = "heads"


class HeadError(LightMBERTError):
    """A head is malformed, on disk or in memory."""

    code = "bad_head"


class HeadFile(ClassificationTask):
    """What `heads/<task>.json` holds."""

    provenance: dict[str, str]


@dataclass(frozen=True)
class Head:
    """A trained head: C labels over embeddings of width H.

    Raises:
        HeadError: the tensors do not fit the labels, or the task cannot be stated in a manifest.
    """

    task: str
    labels: tuple[str, ...]
    problem_type: Literal["single", "multi"]
    weight: Tensor
    """(C, H) float32."""
    bias: Tensor
    """(C,) float32."""
    temperature: float = 1.0
    threshold: float | None = None
    pair: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)

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
        try:
            TypeAdapter(TaskName).validate_python(self.task)
            self.as_task()
        except ValidationError as error:
            raise HeadError(f"head {self.task!r}: {error}") from error

    def as_task(self) -> ClassificationTask:
        """Return the head as a manifest states it: without its tensors."""
        return ClassificationTask(
            labels=self.labels,
            problem_type=self.problem_type,
            temperature=self.temperature,
            threshold=self.threshold,
            pair=self.pair,
        )

    def as_layer(self) -> nn.Linear:
        """Return the layer from unit embeddings (B, H) to logits (B, C), with copied weights."""
        classes, width = self.weight.shape
        layer = nn.Linear(width, classes)
        layer.load_state_dict({"weight": self.weight, "bias": self.bias})
        return layer

    def __call__(self, pooled: Tensor) -> Tensor:
        """Return logits (B, C) of pooled vectors (B, H), which are normalised here."""
        return functional.linear(functional.normalize(pooled, dim=-1), self.weight, self.bias)


def save_head(folder: Path, head: Head) -> None:
    """Write a head into an encoder folder; its json, written last, makes it exist."""
    heads = folder / HEADS_FOLDER
    heads.mkdir(parents=True, exist_ok=True)
    tensors = {"weight": head.weight.detach().contiguous(), "bias": head.bias.detach().contiguous()}
    stated = HeadFile(**head.as_task().model_dump(), provenance=dict(head.provenance))
    partial = heads / f"{head.task}.partial"
    save_file(tensors, partial)
    partial.replace(heads / f"{head.task}.safetensors")
    partial.write_text(stated.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.replace(heads / f"{head.task}.json")


def load_heads(folder: Path) -> dict[str, Head]:
    """Return the heads of an encoder folder by task, in the order of their names.

    Raises:
        HeadError: a head's files are malformed or do not belong together.
    """
    return {path.stem: _load_head(path) for path in sorted((folder / HEADS_FOLDER).glob("*.json"))}


def _load_head(path: Path) -> Head:
    try:
        stated = HeadFile.model_validate_json(path.read_bytes())
        tensors = load_file(path.with_suffix(".safetensors"))
        return Head(path.stem, **dict(stated), weight=tensors["weight"], bias=tensors["bias"])
    except (ValidationError, OSError, SafetensorError, KeyError) as error:
        raise HeadError(f"{path} and its .safetensors are not a head: {error!r}") from error
