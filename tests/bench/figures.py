"""Medians, ranges and percentiles of few or many numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """Of one figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """None where nothing was measured."""
        return cls(median(values), min(values), max(values)) if values else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` per cent of the values do not exceed; 0 of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)] if ordered else 0.0


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, because machines drift between rounds."""
    return [a / b for a, b in zip(above, below, strict=False) if b]
