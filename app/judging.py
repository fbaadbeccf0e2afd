"""What held-out rows say of a head: how often it will be right, and from what score on to answer.

Shapes: N rows, C labels, R repetitions of a cross-validation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.head_file import Expected, HeadError
from app.runtime.artifact import ClassificationTask
from app.runtime.calibration import Problem, calibration_error, threshold_of
from app.runtime.outputs import Floats

_Z = 1.96
"""Standard deviations that hold 95 % of a normal distribution."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A head's labels, what to expect of it, and what it mistakes for what."""

    task: ClassificationTask
    expected: Expected
    f1: list[float]
    """Of each label."""
    confusion: NDArray[np.int64] | None
    """(C, C): rows by the label that is right and the one that was said; of several, none."""


def judged(
    found: Floats,
    targets: Floats,
    *,
    labels: tuple[str, ...],
    problem: Problem,
    temperature: float,
    threshold: float | None,
    precision: float | None,
) -> Judged:
    """Judge probabilities of held-out rows.

    Args:
        found: (R, N, C), at `temperature`.
        targets: (N, C), 0 or 1.
        labels: their names.
        problem: whether each row has one label, or any number.
        temperature: goes into the head.
        threshold: likewise; if None, what `precision` asks for, or what suits several labels.
        precision: that the labels given should have.

    Raises:
        HeadError: no threshold gives this precision.
    """
    every, right = found.reshape(-1, found.shape[-1]), np.tile(targets, (len(found), 1))
    if threshold is None and precision is not None:
        threshold = threshold_for(precision, *_decisions(every, right, problem))
    elif threshold is None and problem == "multi":
        threshold = threshold_of(every, right)
    said = _said(every, problem, threshold)
    task = ClassificationTask(
        labels=labels, problem_type=problem, temperature=temperature, threshold=threshold
    )
    chosen = _said(every, problem, threshold if problem == "multi" else None)
    correct = (chosen == right).all(axis=1)
    low, high = wilson(float(correct.mean()), len(targets))
    f1 = 2 * (chosen * right).sum(0) / np.maximum(1, chosen.sum(0) + right.sum(0))
    expected = Expected(
        rows=len(targets),
        accuracy=float(correct.mean()),
        accuracy_low=low,
        accuracy_high=high,
        macro_f1=float(f1.mean()),
        calibration_error=min(1.0, calibration_error(every, right, problem)),
        answered=float(said.any(axis=1).mean()),
        precision=float((said * right).sum() / said.sum()) if said.any() else None,
    )
    confusion = None
    if problem == "single":
        once = _said(found[0], problem, None)
        confusion = (targets.T @ once).round().astype(np.int64)
    return Judged(task, expected, [float(each) for each in f1], confusion)


def threshold_for(precision: float, found: Floats, right: Floats) -> float:
    """The lowest probability from which on the labels given have this precision.

    A right and a wrong answer are added to those counted, so that a handful of right ones is no
    promise of a high precision.

    Args:
        precision: 0 to 1.
        found: probabilities of the labels that would be given, (M,).
        right: 1 where such a label is right, (M,).

    Raises:
        HeadError: there is none.
    """
    order = np.argsort(-found, kind="stable")
    sorted_found, hits = found[order], np.cumsum(right[order])
    reached = (hits + 1) / (np.arange(1, len(hits) + 1) + 2)
    # no threshold tells equal probabilities apart
    reached[:-1][sorted_found[:-1] == sorted_found[1:]] = -1
    enough = np.flatnonzero(reached >= precision)
    if not len(enough):
        best = int(reached.argmax())
        raise HeadError(
            f"no threshold gives a precision of {precision:g} on these examples: the best is "
            f"{reached[best]:.3f}, of {(best + 1) / len(hits):.0%} of the labels. Ask for less, or "
            "add examples"
        )
    last = int(enough[-1])
    lowest, below = sorted_found[last], np.append(sorted_found, np.float32(0))[last + 1]
    middle = (lowest + below) / 2
    return float(middle if middle > below else lowest)  # nothing may lie between the two


def wilson(share: float, rows: int) -> tuple[float, float]:
    """The range that holds a share counted in so many rows with 95 % confidence (Wilson 1927)."""
    centre = share + _Z**2 / (2 * rows)
    spread = _Z * np.sqrt(share * (1 - share) / rows + _Z**2 / (4 * rows**2))
    scale = 1 + _Z**2 / rows
    return max(0.0, float((centre - spread) / scale)), min(1.0, float((centre + spread) / scale))


def _decisions(found: Floats, right: Floats, problem: Problem) -> tuple[Floats, Floats]:
    """The labels that would be given without a threshold: their probabilities, and if right."""
    if problem == "multi":
        return found.ravel(), right.ravel()
    best = found.argmax(axis=1)[:, None]
    return (
        np.take_along_axis(found, best, axis=1)[:, 0],
        np.take_along_axis(right, best, axis=1)[:, 0],
    )


def _said(found: Floats, problem: Problem, threshold: float | None) -> Floats:
    """(N, C): 1 where a label is given: the best one, or each that reaches the threshold."""
    reaches = found >= (0.0 if threshold is None else threshold)
    if problem == "multi":
        return reaches.astype(np.float32)
    best = np.eye(found.shape[1], dtype=np.float32)[found.argmax(axis=1)]
    said: Floats = best * reaches
    return said
