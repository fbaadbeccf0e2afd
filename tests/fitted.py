"""Fitted heads for the toy student, made by hand."""

from pathlib import Path

import numpy as np

from app.head_file import HeadFile
from app.head_folder import publish_head

WORDS = ("hund", "katt", "tax")
"""One direction of the toy student each, in this order."""


def described(
    name: str = "pets", labels: tuple[str, ...] = ("dog", "cat"), **task: object
) -> HeadFile:
    return HeadFile.model_validate(
        {
            "name": name,
            "fitted_on": {"model": "toy", "revision": "1", "dimension": 4},
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
