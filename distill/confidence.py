"""How far labels can be believed, for the card: what a head is sure of, against what is right."""

from collections.abc import Iterable, Sequence

import numpy as np

from app.runtime.calibration import calibration_error
from app.runtime.outputs import Floats, probabilities
from distill.benchmarks import languages_in
from distill.encoders import Encoder
from distill.labelled import read_labelled
from distill.report import markdown
from distill.suite import classifications
from distill.tables.evaluate import ClassificationTable, EvaluateTable

Judged = tuple[Floats, Floats]
"""Probabilities and targets, (N, C) each."""

STEPS = 10
"""Rows of the table by confidence, of equal width."""


def confidence_tables(encoder: Encoder, table: EvaluateTable) -> str:
    """A section for every head that gives one label; empty where there is none.

    Raises:
        CorpusError: rows cannot be read, or have labels that their head does not know.
    """
    sections = []
    for asked in classifications(table):
        task = encoder.tasks.get(asked.task)
        if task is not None and task.problem_type == "single":
            judged = {
                language: _judged(encoder, asked, language)
                for language in languages_in(asked.rows.folder, table.languages)
            }
            source = table.source_language
            others = [each for language, each in judged.items() if language != source]
            rows = [_row(source, [judged[source]])] if source in judged else []
            rows += [_row("the others", others)] if others else []
            header = ["language", "texts", "mean confidence", "accuracy", "calibration error"]
            sections += [f"### {asked.meaning}", markdown(header, rows), _by_step(judged.values())]
    return "\n\n".join(sections)


def _judged(encoder: Encoder, asked: ClassificationTable, language: str) -> Judged:
    rows, task = read_labelled(asked.rows.of(language)), encoder.tasks[asked.task]
    logits = encoder.outputs(rows.texts)[f"logits_{asked.task}"]
    return probabilities(logits, task), rows.targets(task.labels)


def _row(name: str, judged: Iterable[Judged]) -> Sequence[str]:
    found, targets = _together(judged)
    sure, right = _sure_and_right(found, targets)
    error = calibration_error(found, targets, "single")
    return [name, f"{len(sure):,}", f"{sure.mean():.3f}", f"{right.mean():.3f}", f"{error:.3f}"]


def _by_step(judged: Iterable[Judged]) -> str:
    """The reliability diagram of Guo et al. (arXiv:1706.04599, figure 1) as a table."""
    sure, right = _sure_and_right(*_together(judged))
    step = np.minimum((sure * STEPS).astype(int), STEPS - 1)
    rows = [
        [
            f"{number / STEPS:.1f} to {(number + 1) / STEPS:.1f}",
            f"{(step == number).mean():.3f}",
            f"{right[step == number].mean():.3f}",
        ]
        for number in np.unique(step)
    ]
    return markdown(["confidence", "share of all texts", "accuracy"], rows)


def _together(judged: Iterable[Judged]) -> Judged:
    found, targets = zip(*judged, strict=True)
    return np.concatenate(found), np.concatenate(targets)


def _sure_and_right(found: Floats, targets: Floats) -> Judged:
    """Of each text the probability of its best label, and 1 where that label is right: (N,)."""
    best = found.argmax(axis=1)[:, None]
    sure = np.take_along_axis(found, best, axis=1)[:, 0]
    return sure, np.take_along_axis(targets, best, axis=1)[:, 0]
