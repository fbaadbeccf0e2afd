"""Did a language move: two ways of training, compared on the same rows over the same seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

STANDARD_ERRORS = 2.0
"""How many of them a change must exceed. Of twenty languages that did not move, one is still said
to have: look at how many moved, and in which direction."""

Direction = Literal["up", "down", "same"]


@dataclass(frozen=True)
class Change:
    """A difference of two accuracies, and how sure it is."""

    mean: float
    error: float
    """Standard error, from the spread over rows and that over seeds."""

    @property
    def direction(self) -> Direction:
        if abs(self.mean) <= STANDARD_ERRORS * self.error:
            return "same"
        return "up" if self.mean > 0 else "down"


def change(before: np.ndarray, after: np.ndarray) -> Change:
    """From right and wrong answers, (seeds, rows) each, to the change of accuracy.

    Rows are paired, because the hard ones are hard for both. Their variance and that over seeds
    are added, although each holds a part of the other: rather too careful than not.
    """
    difference = after.astype(float) - before.astype(float)  # (seeds, rows)
    over_rows = _variance_of_mean(difference.mean(axis=0))
    over_seeds = _variance_of_mean(difference.mean(axis=1))
    return Change(float(difference.mean()), float(np.sqrt(over_rows + over_seeds)))


def change_of_mean(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Change:
    """The change of a mean over languages, each of which counts alike and has rows of its own.

    Args:
        before: right and wrong answers of each language, (seeds, rows) each.
        after: likewise, of the same rows.
    """
    differences = [
        right.astype(float) - left.astype(float) for left, right in zip(before, after, strict=True)
    ]
    by_seed = np.mean([difference.mean(axis=1) for difference in differences], axis=0)
    over_rows = sum(_variance_of_mean(difference.mean(axis=0)) for difference in differences)
    error = np.sqrt(over_rows / len(differences) ** 2 + _variance_of_mean(by_seed))
    return Change(float(by_seed.mean()), float(error))


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0
