"""The only arithmetic on outputs: cut and scale embeddings, shrink their numbers, rank labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.runtime.artifact import ClassificationTask
from app.runtime.outputs import Floats, probabilities, unit_vectors

DType = Literal["float32", "int8", "binary"]
Output = Literal["probabilities", "logits", "softmax", "sigmoid"]
"""The last two are probabilities by that function, whichever is the task's own."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores of B texts over the C labels of a task, best first."""

    labels: tuple[str, ...]
    scores: Floats
    """(B, C), in the order of `labels`."""
    order: NDArray[np.intp]
    """(B, C): label indices, best first."""
    counts: NDArray[np.intp]
    """(B,): how many of them pass the threshold and `top_k`."""

    def __iter__(self) -> Iterator[list[tuple[str, np.float32]]]:
        """Per text the labels that pass, best first; none where all stay below the threshold."""
        for scores, order, count in zip(self.scores, self.order, self.counts, strict=True):
            yield [(self.labels[index], scores[index]) for index in order[:count]]

    def records(self) -> list[dict[str, Any]]:
        """Per text what is told of it: the best label that passes, the best score, all that pass."""
        return [
            {
                "label": given[0][0] if given else None,
                "score": best,
                "scores": [{"label": label, "score": score} for label, score in given],
            }
            for given, best in zip(self, self.best_scores(), strict=True)
        ]

    def best_scores(self) -> Floats:
        """(B,): the best score of each text, whether it passes or not."""
        return self.scores[np.arange(len(self.order)), self.order[:, 0]]


def embeddings(pooled: Floats, *, dimensions: int, normalize: bool) -> Floats:
    """(B, H) -> (B, D): the first dimensions, scaled to length 1 after the cut if asked."""
    if normalize:
        return unit_vectors(pooled, dimensions)
    return np.ascontiguousarray(pooled[:, :dimensions])


def shrink(vectors: Floats, dtype: DType) -> NDArray[np.generic]:
    """Embeddings in fewer bytes.

    int8: each row is scaled by itself so that its largest component becomes 127 or -127, and
    rounded. Directions are kept, lengths are not: compare by cosine.
    binary: one bit per dimension, 1 where the component is positive; the first dimension is
    the highest bit of the first byte, and the last byte is filled up with zeros.

    Returns:
        (B, D) float32 or int8, or (B, ceil(D / 8)) uint8.
    """
    if dtype == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True)  # (B, 1)
        scaled: Floats = vectors * (127 / np.maximum(largest, 1e-12))  # (B, D)
        return np.rint(scaled).astype(np.int8)
    if dtype == "binary":
        return np.packbits(vectors > 0, axis=1)
    return vectors


def rank(
    logits: Floats,
    task: ClassificationTask,
    *,
    output: Output,
    top_k: int | None,
    threshold: float | None,
) -> Ranking:
    """Order the labels of each text and say how many of them to give.

    The threshold is always compared with probabilities, also where logits are given; without
    one of the caller's, the task's own counts. Equal scores keep the order of `labels`.
    """
    chances = probabilities(logits, task)  # (B, C)
    order = np.argsort(-chances, axis=1, kind="stable")
    limit = task.threshold if threshold is None else threshold
    most = len(task.labels) if top_k is None else min(top_k, len(task.labels))
    counts = np.full(len(chances), len(task.labels)) if limit is None else (chances >= limit).sum(1)
    return Ranking(
        labels=task.labels,
        scores=_scores(logits, chances, task, output),
        order=order,
        counts=np.minimum(counts, most),
    )


def similarities(vectors: Floats) -> Floats:
    """Cosines of all unit vectors but the last with the last: (B, D) -> (B - 1,)."""
    cosines: Floats = vectors[:-1] @ vectors[-1]
    return cosines


def _scores(logits: Floats, chances: Floats, task: ClassificationTask, output: Output) -> Floats:
    """(B, C): in the same order as `chances` within each row, whatever is asked for."""
    if output == "logits":
        return logits
    if output == "probabilities":
        return chances
    as_asked = "multi" if output == "sigmoid" else "single"
    return probabilities(logits, task.model_copy(update={"problem_type": as_asked}))
