"""Anything that turns texts into outputs, asked alike: a torch encoder or a model folder.

Outputs are those of the exported graph: `pooled` (B, H) and `logits_<task>` (B, C), float32.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from app.runtime.artifact import load_manifest
from app.runtime.outputs import Floats, unit_vectors
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer as ServedTokenizer
from distill.batches import load_tokenizer, tokenize
from distill.heads import load_heads
from distill.teacher import encode, load_teacher, tokenizer_file

Outputs = dict[str, Floats]

BATCH_TEXTS = 32


class Encoder(Protocol):
    """What measuring needs of an encoder."""

    labels: dict[str, tuple[str, ...]]
    """Task -> labels, in the order of its logits."""

    def outputs(self, texts: Sequence[str]) -> Outputs:
        """Outputs of all texts, in their order."""


class RunBatch(Protocol):
    """Texts of one batch -> their outputs."""

    def __call__(self, texts: list[str]) -> Outputs: ...


def embeddings(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """Unit vectors of all texts, in their order: (B, H)."""
    pooled = encoder.outputs(texts)["pooled"]
    return unit_vectors(pooled, pooled.shape[1])


class TorchEncoder:
    """An encoder folder (or hub id) with its heads, in float32."""

    def __init__(self, folder: str | Path, *, max_tokens: int) -> None:
        self._encoder = load_teacher(str(folder))
        self._tokenizer = load_tokenizer(tokenizer_file(str(folder)), max_tokens=max_tokens)
        self._heads = load_heads(Path(folder))
        self.labels = {task: head.labels for task, head in self._heads.items()}

    def outputs(self, texts: Sequence[str]) -> Outputs:
        return _in_order(texts, self._batch)

    @torch.inference_mode()
    def _batch(self, texts: list[str]) -> Outputs:
        pooled = encode(self._encoder, tokenize(self._tokenizer, texts)).pooled
        logits = {f"logits_{task}": head(pooled).numpy() for task, head in self._heads.items()}
        return {"pooled": pooled.numpy(), **logits}


class FolderEncoder:
    """One variant of a model folder, through the code that serves it."""

    def __init__(self, folder: Path, *, precision: str, threads: int) -> None:
        manifest = load_manifest(folder)
        self._session = StudentSession.load(
            folder, manifest, device="cpu", precision=precision, intra_op_threads=threads
        )
        self._tokenizer = ServedTokenizer.load(
            folder / manifest.tokenizer.file, max_tokens=manifest.max_tokens
        )
        self.labels = {task: entry.labels for task, entry in manifest.tasks.items()}

    def outputs(self, texts: Sequence[str]) -> Outputs:
        return _in_order(
            texts, lambda some: self._session.run(self._tokenizer.encode(some, truncate=True))
        )


def _in_order(texts: Sequence[str], run: RunBatch) -> Outputs:
    """Run in batches of like length, and give the outputs back in the order of the texts."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    parts = [
        run([texts[index] for index in order[start : start + BATCH_TEXTS]])
        for start in range(0, len(order), BATCH_TEXTS)
    ]
    back = np.argsort(order)
    return {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}
