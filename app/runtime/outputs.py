"""The two functions that turn graph outputs into what people compare, in float32.

They live beside the session because the golden self-test needs them; the service and the
offline evaluation use these very functions, so that all three mean the same numbers.
"""

import numpy as np
from numpy.typing import NDArray

from app.runtime.artifact import ClassificationTask

Floats = NDArray[np.float32]


def unit_vectors(pooled: Floats, dimensions: int) -> Floats:
    """The first `dimensions` of each row, scaled to length 1: (B, H) -> (B, D).

    A row of zeros stays zero rather than becoming undefined.
    """
    cut = pooled[:, :dimensions]  # (B, D)
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)  # (B, 1)
    scaled: Floats = cut / np.maximum(lengths, 1e-12)
    return scaled


def probabilities(logits: Floats, task: ClassificationTask) -> Floats:
    """Softmax (one label) or sigmoid (several) of logits over temperature: (B, C) -> (B, C)."""
    scaled = logits / np.float32(task.temperature)
    if task.problem_type == "multi":
        # exp of -|x| alone can overflow nowhere, whatever the sign of the logit
        decay = np.exp(-np.abs(scaled))
        sigmoid: Floats = np.where(scaled >= 0, 1 / (1 + decay), decay / (1 + decay))
        return sigmoid
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    softmax: Floats = exponents / exponents.sum(axis=1, keepdims=True)
    return softmax
