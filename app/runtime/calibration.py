"""Is a head as sure as it is right: temperature, threshold and calibration error of given rows.

A temperature divides logits before softmax or sigmoid and changes no single label (Guo et al.
2017, arXiv:1706.04599, section 4.2). Shapes: N rows, C labels.
"""

from typing import Literal

import numpy as np

from app.runtime.artifact import ClassificationTask
from app.runtime.outputs import Floats, probabilities

Problem = Literal["single", "multi"]

BINS = 15
"""As in the paper's tables."""
TEMPERATURES = (0.02, 50.0)


def temperature_of(logits: Floats, targets: Floats, problem: Problem) -> float:
    """The temperature under which the targets are likeliest, within TEMPERATURES: (N, C) each.

    Targets are smoothed by a row per class that is of every class alike, as Platt does for two
    (1999, "Probabilistic outputs for support vector machines", section 2.2): a few rows that are
    all right would otherwise make a head sure of everything.
    """
    from scipy.optimize import minimize_scalar  # what serves heads does without

    rows, classes = targets.shape
    unsure = 2 if problem == "multi" else classes
    targets = (rows * targets + unsure * (1 / unsure)) / (rows + unsure)

    def loss(log_temperature: float) -> float:
        found = probabilities_at(logits, problem, float(np.exp(log_temperature)))
        found = np.clip(found, 1e-9, 1 - 1e-7)
        right = targets * np.log(found)
        wrong = (1 - targets) * np.log1p(-found) if problem == "multi" else 0.0
        return float(-(right + wrong).sum(axis=1).mean())

    # One valley: the loss is convex in 1 / T.
    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def threshold_of(found: Floats, targets: Floats) -> float:
    """The probability from which on a label is best given: best micro-F1 of (N, C) rows.

    Among equally good ones the middle of the gap between two probabilities is taken.
    """
    order = np.argsort(-found, axis=None, kind="stable")
    chosen, hits = found.ravel()[order], np.cumsum(targets.ravel()[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + targets.sum())
    f1[:-1][chosen[:-1] == chosen[1:]] = -1  # no threshold tells equal probabilities apart
    best = int(f1.argmax())
    below = chosen[best + 1] if best + 1 < len(chosen) else 0.0
    return float((chosen[best] + below) / 2)


def calibration_error(found: Floats, targets: Floats, problem: Problem) -> float:
    """Expected calibration error over BINS bins of equal width, (N, C) each.

    One label: the highest probability of each row against whether it is right. Several: every
    probability against whether its label is there.
    """
    if problem == "single":
        confidence = found.max(axis=1)
        right = np.take_along_axis(targets, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    else:
        confidence, right = found.ravel(), targets.ravel()
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [
        np.abs((confidence[bins == number] - right[bins == number]).sum())
        for number in np.unique(bins)
    ]
    return float(np.sum(gaps) / len(confidence))


def probabilities_at(logits: Floats, problem: Problem, temperature: float) -> Floats:
    """(N, C) -> (N, C), as a head of that temperature gives them."""
    labels = tuple(str(number) for number in range(logits.shape[1]))
    task = ClassificationTask(labels=labels, problem_type=problem, temperature=temperature)
    return probabilities(logits, task)
