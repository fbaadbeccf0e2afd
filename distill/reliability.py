"""What held-out rows say of a head that is being trained, see `app.runtime.calibration`.

Temperature and threshold are fitted on those rows. What is reported is cross-fitted: each half of
them is judged by the temperature of the other half. Halves are drawn by chance, because files may
give their labels in turns.
"""

from dataclasses import dataclass

import numpy as np

from app.runtime.calibration import (
    Problem,
    calibration_error,
    probabilities_at,
    temperature_of,
    threshold_of,
)
from app.runtime.outputs import Floats


@dataclass(frozen=True)
class Reliability:
    """What held-out rows say of a head."""

    temperature: float
    threshold: float | None
    """Multi-label: the probability from which on a label is given; best micro-F1."""
    ece_before: float
    """Expected calibration error at temperature 1."""
    ece_after: float
    """The same at the temperature of the half that is not being judged."""
    rows: int


def reliability(logits: Floats, targets: Floats, problem: Problem) -> Reliability:
    """Fit temperature and threshold on held-out rows: logits and targets, (N, C) each."""
    temperature = temperature_of(logits, targets, problem)
    found = probabilities_at(logits, problem, temperature)
    return Reliability(
        temperature=temperature,
        threshold=threshold_of(found, targets) if problem == "multi" else None,
        ece_before=calibration_error(probabilities_at(logits, problem, 1.0), targets, problem),
        ece_after=_cross_fitted(logits, targets, problem),
        rows=len(logits),
    )


def _cross_fitted(logits: Floats, targets: Floats, problem: Problem) -> float:
    one = np.random.default_rng(len(logits)).permutation(len(logits)) % 2 == 0
    if one.all():
        return calibration_error(probabilities_at(logits, problem, 1.0), targets, problem)
    found = np.empty_like(logits)
    for judged, fitted in ((one, ~one), (~one, one)):
        temperature = temperature_of(logits[fitted], targets[fitted], problem)
        found[judged] = probabilities_at(logits[judged], problem, temperature)
    return calibration_error(found, targets, problem)
