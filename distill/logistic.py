"""A head on a frozen encoder: logistic regression on its unit embeddings.

One forward pass serves every such head, and a head costs seconds. Trained on text of one
language it answers in every language whose sentences land where their translations do.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from app.runtime.outputs import Floats
from distill.encoders import Encoder, embeddings
from distill.heads import Head
from distill.labelled import read_labelled
from distill.reading import CorpusError
from distill.reliability import Reliability, reliability
from distill.tables.finetune import HeadTable


@dataclass(frozen=True)
class FittedHead:
    """A head, and what cross-validation on its own training text says of it."""

    head: Head
    accuracy: float
    """Mean over the folds."""
    reliability: Reliability


def fit_head(encoder: Encoder, table: HeadTable, *, seed: int) -> FittedHead:
    """A head whose temperature was fitted on the rows that each fold held out.

    Raises:
        CorpusError: the text cannot be read, or its labels do not allow cross-validation.
    """
    rows = read_labelled(table.data)
    folds = _folds(rows.labels, table.data.path)
    features, labels = embeddings(encoder, rows.texts), np.array(rows.labels)
    accuracies, held_out = [], np.empty((len(labels), len(rows.known)), dtype=np.float32)
    for seen, unseen in StratifiedKFold(folds).split(features, labels):
        part = _regression(features[seen], labels[seen], table, seed)
        held_out[unseen] = part(torch.from_numpy(features[unseen])).numpy()
        right = np.array(part.labels)[held_out[unseen].argmax(1)] == labels[unseen]
        accuracies.append(float(right.mean()))
    found = reliability(held_out, rows.targets(rows.known), "single")
    head = _regression(features, labels, table, seed)
    told = {"data": rows.fingerprint(), "ece": f"{found.ece_after:.4f}"}
    head = replace(head, temperature=found.temperature, provenance=told)
    return FittedHead(head, float(np.mean(accuracies)), found)


def _regression(features: Floats, labels: np.ndarray, table: HeadTable, seed: int) -> Head:
    """Labels in sorted order, as scikit-learn has them."""
    model = LogisticRegression(C=table.inverse_regularization, max_iter=2000, random_state=seed)
    model.fit(features, labels)
    weight, bias = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    if len(weight) == 1:
        # scikit-learn gives two classes one row of coefficients; softmax wants one per class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Head(
        task=table.task,
        labels=tuple(str(label) for label in model.classes_),
        problem_type="single",
        weight=torch.from_numpy(weight).float(),
        bias=torch.from_numpy(bias).float(),
        pair=table.data.pair_column is not None,
    )


def _folds(labels: list[str], path: Path) -> int:
    """Five, or fewer where the rarest label has fewer rows."""
    counts = Counter(labels).most_common()
    if len(counts) < 2:
        raise CorpusError(f"{path} has the label {counts[0][0]!r} only; a head tells two apart")
    rarest, rows = counts[-1]
    if rows < 2:
        raise CorpusError(f"{path} has one row of label {rarest!r}; two are needed")
    return min(5, rows)
