"""Fitted heads, made and spoilt by hand: for the toy student, unless another is named."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np

from app.head_file import HeadFile
from app.head_folder import _seal, publish_head
from app.heads import Heads
from app.metrics import Metrics
from app.runtime.artifact import load_manifest

TOY = {"model": "toy", "revision": "1", "dimension": 4}

WORDS = ("hund", "katt", "tax")
"""One direction of the toy student each, in this order."""


def described(
    name: str = "pets",
    labels: tuple[str, ...] = ("dog", "cat"),
    *,
    on: Mapping[str, object] = TOY,
    **task: object,
) -> HeadFile:
    return HeadFile.model_validate(
        {
            "name": name,
            "fitted_on": on,
            "task": {"labels": labels, **task},
            "weights": {"file": "head.safetensors", "sha256": "0" * 64},
            "expected": {
                "rows": 12,
                "accuracy": 0.9,
                "accuracy_low": 0.8,
                "accuracy_high": 1.0,
                "macro_f1": 0.9,
                "calibration_error": 0.1,
            },
            "created": "2026-11-21",
            "data_sha256": "0" * 64,
        }
    )


def publish(
    heads_dir: Path, file: HeadFile | None = None, *, strength: float = 1.0, bias: float = 0.0
) -> Path:
    """A head whose first label is "hund", whose second is "katt", and so on."""
    file = file or described()
    labels = len(file.task.labels)
    weight = strength * np.eye(labels, file.fitted_on.dimension, dtype=np.float32)
    return publish_head(heads_dir, file, weight=weight, bias=np.full(labels, bias, np.float32))


def sealed(folder: Path, **changed: object) -> None:
    """Change what the head says of itself, as somebody would who knows how."""
    found = json.loads((folder / "head.json").read_text()) | changed
    found["seal"] = _seal(found)
    (folder / "head.json").write_text(json.dumps(found))


def reweighted(folder: Path, written: bytes) -> None:
    """Give the head other weights, as well made."""
    (folder / "other.safetensors").write_bytes(written)
    hashed = {"file": "other.safetensors", "sha256": sha256(written).hexdigest()}
    sealed(folder, weights=hashed)


def heads_of(model_dir: Path, heads_dir: Path, metrics: Metrics | None = None) -> Heads:
    """What a student makes of a folder of heads."""
    heads = Heads(load_manifest(model_dir), heads_dir, metrics or Metrics(), default=None)
    heads.refresh()
    return heads
