"""Verb: train the classification heads of a recipe's `[finetune]` table.

    lightmbert distill finetune distill/recipes/mini-5-settle.toml

The encoder stays as it is: a head is a logistic regression on its unit embeddings, so one
forward pass serves every head, and a head costs seconds. Trained on text of one language it
answers in every language whose sentences land where their translations do.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from threadpoolctl import threadpool_limits

from distill.config import LoadedRecipe, require
from distill.corpus import CorpusError
from distill.encoders import TorchEncoder, embeddings
from distill.heads import Head, save_head
from distill.labelled import read_labelled
from distill.tables.finetune import HeadTable


def run(loaded: LoadedRecipe) -> None:
    """Add each of the table's heads to each of its encoder folders."""
    table, run_table = require(loaded.recipe.finetune, "finetune"), loaded.recipe.run
    torch.set_num_threads(run_table.threads)
    console = Console()
    for folder in table.encoders:
        encoder = TorchEncoder(folder, max_tokens=table.max_tokens)
        for head_table in table.heads:
            # scikit-learn's threads spin while they wait: 25 times the work on a busy machine
            with threadpool_limits(run_table.threads):
                head, accuracy = fit_head(encoder, head_table, seed=run_table.seed)
            save_head(folder, head)
            console.print(f"{folder} {head.task}: {accuracy:.3f} accuracy in cross-validation")


def fit_head(encoder: TorchEncoder, table: HeadTable, *, seed: int) -> tuple[Head, float]:
    """A head, and its mean accuracy in cross-validation on its own training text.

    Raises:
        CorpusError: the text cannot be read, or its labels do not allow cross-validation.
    """
    rows = read_labelled(table.data)
    folds = _folds(rows.labels, table.data.path)
    features, labels = embeddings(encoder, rows.texts), np.array(rows.labels)
    model = LogisticRegression(C=table.inverse_regularization, max_iter=2000, random_state=seed)
    accuracy = float(cross_val_score(model, features, labels, cv=folds).mean())
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
        temperature=1.0,
        threshold=None,
        pair=False,
    ), accuracy


def _folds(labels: list[str], path: Path) -> int:
    """Five, or fewer where the rarest label has fewer rows."""
    counts = Counter(labels).most_common()
    if len(counts) < 2:
        raise CorpusError(f"{path} has the label {counts[0][0]!r} only; a head tells two apart")
    rarest, rows = counts[-1]
    if rows < 2:
        raise CorpusError(f"{path} has one row of label {rarest!r}; two are needed")
    return min(5, rows)
