"""Fits a head: logistic regression on unit embeddings, calibrated and judged on held-out rows.

The only module of `app` that needs scikit-learn, and nothing that serves imports it. Shapes: N
texts, D dimensions, C labels, R repetitions of the cross-validation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit
from threadpoolctl import threadpool_limits

from app.runtime.calibration import Problem, probabilities_at, temperature_of
from app.runtime.outputs import Floats

GRID = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Inverse strengths of the regularisation that are tried. On unit vectors 1 is strong."""
MOST_FOLDS = 5
CURVE_POINTS = 6
CURVE_DRAWS = 5
ONE_THREAD = 1
"""On few rows the threads of linear algebra wait for each other: 12 s of processor time, not 0.8."""

_FEW = 300
"""With fewer rows cross-validation is repeated: how they happen to be shared out matters."""
_MOST_REPETITIONS = 5
_NEVER = 30.0
"""The logit against a label of which no example was drawn."""

ClassWeight = Mapping[str, float] | str | None
"""By label; or "balanced": the rarer a label, the more each of its examples counts."""


@dataclass(frozen=True, eq=False)
class Linear:
    """Logits of unit vectors."""

    weight: Floats
    """(C, D)"""
    bias: Floats
    """(C,)"""

    def __call__(self, vectors: Floats) -> Floats:
        """(N, D) -> (N, C)."""
        logits: Floats = vectors @ self.weight.T + self.bias
        return logits


@dataclass(frozen=True, eq=False)
class Curve:
    """How good a head is by how many examples it saw."""

    examples: list[int]
    scores: NDArray[np.float64]
    """(points, draws): accuracy on what was not drawn; of several labels, their mean F1."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A head fitted on all rows, and what held-out rows say of such heads."""

    linear: Linear
    inverse_regularization: float
    temperature: float
    held_out: Floats
    """(R, N, C): logits of each row by a head that did not see it."""
    folds: int

    def probabilities(self, problem: Problem) -> Floats:
        """(R, N, C): as the head would have given them."""
        flat = self.held_out.reshape(-1, self.held_out.shape[-1])
        return probabilities_at(flat, problem, self.temperature).reshape(self.held_out.shape)


@dataclass(frozen=True, eq=False)
class _Choice:
    """One thing that logistic regression decides."""

    targets: Floats
    """(N, classes)"""
    weights: dict[int, float] | str
    """Of each class, or "balanced"."""


class Fitter:
    """Vectors and targets that heads are fitted on."""

    def __init__(
        self,
        vectors: Floats,
        targets: Floats,
        *,
        problem: Problem,
        class_weight: ClassWeight = None,
        labels: tuple[str, ...],
        seed: int = 0,
    ) -> None:
        """Vectors (N, D) of length 1 and targets (N, C), which are 0 or 1."""
        self._vectors = vectors
        self._targets = targets
        self._problem: Problem = problem
        self._class_weight = class_weight
        self._labels = labels
        self._seed = seed
        self._choices = self._choices_to_make()
        rarest = min(int(choice.targets.sum(0).min()) for choice in self._choices)
        self._folds = min(MOST_FOLDS, rarest)

    def fit(self) -> Fit:
        """The regularisation under which held-out rows are likeliest, then a head on all rows."""
        with threadpool_limits(ONE_THREAD):
            found = {strength: self._held_out(strength) for strength in GRID}
            temperatures = {strength: self._temperature(held) for strength, held in found.items()}
            best = min(
                GRID, key=lambda strength: self._loss(found[strength], temperatures[strength])
            )
            return Fit(
                linear=self._linear(np.arange(len(self._vectors)), best),
                inverse_regularization=best,
                temperature=temperatures[best],
                held_out=found[best],
                folds=self._folds,
            )

    def curve(self, strength: float) -> Curve:
        """Heads on more and more of the examples, each judged by the rest."""
        fewest = max(2 * choice.targets.shape[1] for choice in self._choices)
        most = len(self._vectors) * (self._folds - 1) // self._folds
        sizes = np.unique(np.geomspace(min(fewest, most), most, CURVE_POINTS).astype(int))
        with threadpool_limits(ONE_THREAD):
            scores = [
                np.mean([self._drawn(each, int(size), strength) for each in self._choices], axis=0)
                for size in sizes
            ]
        return Curve([int(size) for size in sizes], np.array(scores))

    def _drawn(self, choice: _Choice, size: int, strength: float) -> list[float]:
        y = choice.targets.argmax(1)
        draws = StratifiedShuffleSplit(
            CURVE_DRAWS, train_size=size, test_size=len(y) - size, random_state=self._seed
        )
        scores = []
        for seen, unseen in draws.split(y, y):
            logits = self._one_of(choice, seen, strength)(self._vectors[unseen])
            scores.append(self._score(logits.argmax(1), y[unseen]))
        return scores

    def _score(self, said: NDArray[np.intp], right: NDArray[np.intp]) -> float:
        if self._problem == "single":
            return float((said == right).mean())
        hits = float((said * right).sum())
        return 2 * hits / max(1.0, float(said.sum() + right.sum()))

    def _held_out(self, strength: float) -> Floats:
        repetitions = range(int(np.clip(_FEW // len(self._vectors), 1, _MOST_REPETITIONS)))
        held_out = np.stack([self._once_held_out(strength, each) for each in repetitions])
        return held_out.astype(np.float32)

    def _once_held_out(self, strength: float, repetition: int) -> Floats:
        parts = []
        for choice in self._choices:
            logits = np.empty(choice.targets.shape, dtype=np.float32)
            y = choice.targets.argmax(1)
            folds = StratifiedKFold(self._folds, shuffle=True, random_state=self._seed + repetition)
            for seen, unseen in folds.split(y, y):
                logits[unseen] = self._one_of(choice, seen, strength)(self._vectors[unseen])
            parts.append(logits)
        return self._joined(parts)

    def _linear(self, seen: NDArray[np.intp], strength: float) -> Linear:
        parts = [self._one_of(choice, seen, strength) for choice in self._choices]
        return Linear(
            self._joined([part.weight.T for part in parts]).T.copy(),
            self._joined([part.bias[None] for part in parts])[0],
        )

    def _choices_to_make(self) -> list[_Choice]:
        """One among all labels; or one for each, between its absence and it."""
        given = self._class_weight
        of_label = given if isinstance(given, Mapping) else {}
        weights = [of_label.get(label, 1.0) for label in self._labels]
        balanced = "balanced" if given == "balanced" else None
        if self._problem == "single":
            return [_Choice(self._targets, balanced or dict(enumerate(weights)))]
        return [
            _Choice(np.stack([1 - column, column], axis=1), balanced or {0: 1.0, 1: weight})
            for column, weight in zip(self._targets.T, weights, strict=True)
        ]

    def _joined(self, parts: list[Floats]) -> Floats:
        """What was told of each choice, (..., 2) or (..., C), as one row of logits."""
        if self._problem == "single":
            return parts[0]
        return np.stack([part[..., 1] - part[..., 0] for part in parts], axis=-1)

    def _one_of(self, choice: _Choice, seen: NDArray[np.intp], strength: float) -> Linear:
        """A head for one choice, with a row for each of its classes, seen or not."""
        y, classes = choice.targets.argmax(1)[seen], choice.targets.shape[1]
        whole = np.zeros((classes, self._vectors.shape[1]), dtype=np.float32)
        level = np.full(classes, -_NEVER, dtype=np.float32)
        known = np.unique(y)
        if len(known) == 1:
            level[known] = 0
            return Linear(whole, level)
        weights = choice.weights
        if not isinstance(weights, str):
            weights = {each: weights[int(each)] for each in known}
        model = LogisticRegression(C=strength, max_iter=5_000, class_weight=weights)
        model.fit(self._vectors[seen], y)
        weight, bias = model.coef_, model.intercept_
        if len(known) == 2:
            # Two classes get one row of coefficients; softmax wants one for each.
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        whole[known], level[known] = weight, bias
        return Linear(whole, level)

    def _temperature(self, held_out: Floats) -> float:
        """The geometric mean of what each repetition says."""
        found = [temperature_of(each, self._targets, self._problem) for each in held_out]
        return float(np.exp(np.mean(np.log(found))))

    def _loss(self, held_out: Floats, temperature: float) -> float:
        """Negative log-likelihood of the held-out rows, in nats for each."""
        flat = held_out.reshape(-1, held_out.shape[-1])
        found = np.clip(probabilities_at(flat, self._problem, temperature), 1e-9, 1 - 1e-7)
        targets = np.tile(self._targets, (len(held_out), 1))
        chosen = targets * np.log(found)
        if self._problem == "multi":
            chosen = chosen + (1 - targets) * np.log1p(-found)
        return float(-chosen.sum(axis=1).mean())
