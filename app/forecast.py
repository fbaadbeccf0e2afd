"""How long a batch will run: a law for its shape, corrected by what runs of like shape took.

The law, seconds = overhead + padded tokens x seconds per token, is fitted to the warm-up and then
stands. What changes is a table of ratios to it, one cell per power of two of length and of
texts: attention makes long texts dearer than the law says, other runs share the processor, and
a machine slows down when it is hot. A shape that was never seen borrows the ratio of all runs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

LEAST_OVERHEAD_S = 2e-4
"""Of handing a batch to a thread and its results back; a warm-up may be too noisy to show it."""
_WEIGHT = 0.1
"""Of the newest run in a ratio; the first few runs of a cell weigh more."""
_MOST_SURPRISE = 2.0
"""One run counts as at most this many times faster or slower than predicted."""


@dataclass(frozen=True, slots=True)
class Run:
    """The shape of one batch, and how long it took."""

    longest: int
    """Tokens of its longest text, which all others are padded to."""
    texts: int
    seconds: float


@dataclass(slots=True)
class _Ratio:
    """Observed over lawful seconds: a mean that one preempted run cannot spoil."""

    value: float = 1.0
    runs: int = 0

    def learn(self, observed: float) -> None:
        self.runs += 1
        surprise = min(max(observed / self.value, 1 / _MOST_SURPRISE), _MOST_SURPRISE)
        self.value *= 1 + max(_WEIGHT, 1 / (self.runs + 1)) * (surprise - 1)


class Forecast:
    """Predicts run seconds by (longest text, texts), and learns from each run."""

    def __init__(self, *, seconds_per_token: float, overhead_s: float = LEAST_OVERHEAD_S) -> None:
        """`overhead_s` is what a batch costs however small it is."""
        self.overhead_s = overhead_s
        self.seconds_per_token = seconds_per_token
        self._all = _Ratio()
        self._cells: dict[tuple[int, int], _Ratio] = {}

    @classmethod
    def fitted(cls, runs: Iterable[Run]) -> Self:
        """A law fitted to the relative errors of these runs, and a table that has seen them."""
        known = list(runs)
        seconds = np.array([max(run.seconds, 1e-9) for run in known])
        padded = np.array([run.longest * run.texts for run in known], dtype=float)
        design = np.stack([1 / seconds, padded / seconds], axis=1)  # (runs, 2)
        overhead_s, per_token = np.linalg.lstsq(design, np.ones(len(known)), rcond=None)[0]
        if overhead_s < LEAST_OVERHEAD_S or per_token <= 0:  # noise, or too few shapes
            overhead_s, per_token = LEAST_OVERHEAD_S, np.median(seconds / padded)
        forecast = cls(seconds_per_token=float(per_token), overhead_s=float(overhead_s))
        for run in known:
            forecast.learn(run)
        return forecast

    @property
    def drift(self) -> float:
        """How many times longer than the law runs take now."""
        return self._all.value

    @property
    def padding_worth_a_run(self) -> float:
        """Padded tokens that cost as much as starting another run does."""
        return self.overhead_s / self.seconds_per_token

    def law_s(self, padded_tokens: int) -> float:
        return self.overhead_s + padded_tokens * self.seconds_per_token

    def seconds(self, longest: int, texts: int) -> float:
        """Predicted seconds of a batch of this shape."""
        return self.law_s(longest * texts) * self.ratio(longest, texts)

    def ratio(self, longest: int, texts: int) -> float:
        """How many times longer than the law a batch of this shape takes."""
        cell = self._cells.get((longest.bit_length(), texts.bit_length()))
        return self._all.value if cell is None else cell.value

    def learn(self, run: Run) -> None:
        """Correct the table by a run that has ended."""
        observed = max(run.seconds, 1e-9) / self.law_s(run.longest * run.texts)
        key = (run.longest.bit_length(), run.texts.bit_length())
        if key not in self._cells:
            self._cells[key] = _Ratio(self._all.value)
        self._cells[key].learn(observed)
        self._all.learn(observed)
