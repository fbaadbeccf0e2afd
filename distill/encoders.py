"""Anything that turns texts into outputs, asked alike: a torch encoder or a model folder.

Outputs are those of the exported graph: `pooled` (B, H) and `logits_<task>` (B, C), float32.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from app.runtime.artifact import ClassificationTask, load_manifest
from app.runtime.outputs import Floats, unit_vectors
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Text
from app.runtime.tokenizer import Tokenizer as ServedTokenizer
from distill.anatomy import anatomy
from distill.batches import load_tokenizer
from distill.classifier import embed, inputs_of, read
from distill.heads import AnyHead, Head, load_heads, logits_of, require_fit
from distill.teacher import EncoderError, load_skeleton, load_teacher, tokenizer_file

Outputs = dict[str, Floats]

BATCH_TEXTS = 32


def check_encoder(name: str | Path, *, max_tokens: int) -> None:
    """Refuse an encoder folder or hub id that is not there, or that reads less than `max_tokens`.

    Reads its config alone, so that many can be asked before the first is loaded.

    Raises:
        EncoderError: it is missing, of another family, lacks a tokenizer, or its positions end.
    """
    tokenizer_file(str(name))
    positions = anatomy(load_skeleton(str(name))).max_tokens
    if max_tokens > positions:
        raise EncoderError(f"max_tokens {max_tokens} exceeds the {positions} positions of {name}")


class Encoder(Protocol):
    """What measuring needs of an encoder."""

    tasks: dict[str, ClassificationTask]
    """What its heads tell, and how; labels are in the order of the logits."""

    def outputs(self, texts: Sequence[Text]) -> Outputs:
        """Outputs of all texts or pairs, in their order."""


class RunBatch(Protocol):
    """Texts of one batch -> their outputs."""

    def __call__(self, texts: list[Text]) -> Outputs: ...


def embeddings(encoder: Encoder, texts: Sequence[Text]) -> Floats:
    """Unit vectors of all texts, in their order: (B, H)."""
    pooled = encoder.outputs(texts)["pooled"]
    return unit_vectors(pooled, pooled.shape[1])


class TorchEncoder:
    """An encoder folder (or hub id) with its heads, in float32, on the GPU where there is one."""

    def __init__(self, folder: str | Path, *, max_tokens: int) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._encoder = load_teacher(str(folder)).to(self._device)
        self._tokenizer = load_tokenizer(tokenizer_file(str(folder)), max_tokens=max_tokens)
        self._heads: dict[str, AnyHead] = load_heads(Path(folder))
        config = self._encoder.config
        require_fit(self._heads, self._tokenizer, width=config.hidden_size, rows=config.vocab_size)
        self.tasks = {task: head.as_task() for task, head in self._heads.items()}

    def outputs(self, texts: Sequence[Text]) -> Outputs:
        return in_order(texts, self._batch)

    @torch.inference_mode()
    def _batch(self, texts: list[Text]) -> Outputs:
        inputs = inputs_of(read(self._tokenizer, texts))
        pooled = embed(self._encoder, inputs.to(self._device)).cpu()
        found = {"pooled": pooled} | logits_of(self._heads, pooled, inputs.tokens)
        return {name: tensor.numpy() for name, tensor in found.items()}


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
        self.tasks = dict(manifest.tasks)

    def outputs(self, texts: Sequence[Text]) -> Outputs:
        return in_order(
            texts, lambda some: self._session.run(self._tokenizer.encode(some, truncate=True))
        )


class WithHeads:
    """Any encoder, with heads fitted on its embeddings beside those it has."""

    def __init__(self, encoder: Encoder, heads: Mapping[str, Head]) -> None:
        self._encoder, self._heads = encoder, heads
        self.tasks = encoder.tasks | {task: head.as_task() for task, head in heads.items()}

    def outputs(self, texts: Sequence[Text]) -> Outputs:
        found = self._encoder.outputs(texts)
        pooled = torch.from_numpy(found["pooled"])
        return found | {
            f"logits_{task}": head(pooled).numpy() for task, head in self._heads.items()
        }


def in_order(texts: Sequence[Text], run: RunBatch) -> Outputs:
    """Run in batches of like length, and give the outputs back in the order of the texts."""
    order = sorted(range(len(texts)), key=lambda index: _characters(texts[index]))
    parts = [
        run([texts[index] for index in order[start : start + BATCH_TEXTS]])
        for start in range(0, len(order), BATCH_TEXTS)
    ]
    back = np.argsort(order)
    return {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}


def _characters(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))
