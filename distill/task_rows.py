"""A classification task's rows: what there is to learn, and what training is judged by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score

from app.runtime.calibration import Problem
from app.runtime.outputs import Floats
from distill.comparison import Scores
from distill.labelled import Labelled, read_labelled
from distill.reading import CorpusError
from distill.tables.finetune import HeldOutTable
from distill.tables.labelled import LabelledFolder, LabelledTable


@dataclass(frozen=True)
class TaskRows:
    """Training and development rows of one task, in the source language."""

    labels: tuple[str, ...]
    problem: Problem
    pair: bool
    train: Labelled
    development: Labelled


def read_task(
    data: LabelledTable,
    development: LabelledTable | HeldOutTable,
    *,
    problem: Problem,
    seed: int,
) -> TaskRows:
    """Read a task; rows held out are drawn by `seed`.

    Raises:
        CorpusError: rows cannot be read, fewer than two labels are there, a row of a problem of
            one label has several, or development rows have a label that training rows have not.
    """
    train = read_labelled(data)
    if isinstance(development, HeldOutTable):
        known = train.known
        train, held_out = _parted(train, development.share, seed=seed, path=data.path)
        if gone := sorted(set(known) - set(train.known)):
            raise CorpusError(
                f"{data.path}: a share of {development.share} holds out every row of label "
                f"{gone[0]!r}; hold out fewer rows, or others by another seed of the run"
            )
    else:
        held_out = read_labelled(development)
    if len(train.known) < 2:
        raise CorpusError(f"{data.path} has the labels {train.known}; a head tells two apart")
    if problem == "single":
        for rows in (train, held_out):
            _ = rows.labels  # refuses a row with several
    held_out.targets(train.known)
    return TaskRows(train.known, problem, data.pair_column is not None, train, held_out)


def _parted(rows: Labelled, share: float, *, seed: int, path: Path) -> tuple[Labelled, Labelled]:
    total = len(rows.texts)
    out = round(share * total)
    if not 0 < out < total:
        raise CorpusError(f"{path}: a share of {share} holds out {out} of {total} rows")
    order = np.random.default_rng([seed, total]).permutation(total)
    return rows.rows(order[out:].tolist()), rows.rows(order[:out].tolist())


def read_languages(
    folder: LabelledFolder, languages: Sequence[str], task: TaskRows
) -> dict[str, Labelled]:
    """Labelled rows of each language, to measure a task on.

    Raises:
        CorpusError: a language has no file, its rows cannot be read, or they have labels that are
            not the task's, or several where it has one.
    """
    found = {language: read_labelled(folder.of(language)) for language in languages}
    for rows in found.values():
        rows.targets(task.labels)
        if task.problem == "single":
            _ = rows.labels
    return found


def score(logits: Floats, targets: Floats, problem: Problem, *, threshold: float = 0.5) -> float:
    """Accuracy, or micro-F1 where several labels may be right, of (N, C) rows.

    Args:
        logits: (N, C), divided by the head's temperature where `threshold` is not 0.5.
        targets: (N, C) of 0 and 1.
        problem: one label per text, or several.
        threshold: the probability from which on a label is given; several only.
    """
    if problem == "single":
        return float(np.mean(hits(logits, targets)))
    cut = np.log(threshold / (1 - threshold)) if 0 < threshold < 1 else 0.0
    return float(f1_score(targets, logits >= cut, average="micro", zero_division=0))


def hits(logits: Floats, targets: Floats) -> np.ndarray:
    """(N,) whether the likeliest label is right."""
    right: np.ndarray = logits.argmax(axis=1) == targets.argmax(axis=1)
    return right


def scores_of(
    logits: Mapping[str, Floats],
    rows: Mapping[str, Labelled],
    labels: Sequence[str],
    problem: Problem,
    *,
    temperature: float = 1.0,
    threshold: float | None = None,
) -> Scores:
    """Score of each language."""
    return {
        language: score(
            logits[language] / np.float32(temperature),
            of_language.targets(labels),
            problem,
            threshold=0.5 if threshold is None else threshold,
        )
        for language, of_language in rows.items()
    }
