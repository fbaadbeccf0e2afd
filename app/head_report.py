"""A fitted head told to people: lines of text, and a picture of how it learned."""

from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from app.judging import Judged
from app.labelled_rows import Examples

if TYPE_CHECKING:
    from app.fitting import Curve, Fit

_MOST_PLACES = 5
"""Contradictory rows that are named."""
_WIDEST_LABEL = 18


def report(examples: Examples, fit: "Fit", judged: Judged, *, truncated: int) -> Iterator[str]:
    """What was learned from, what to expect of it, and what it mistakes for what."""
    expected, task = judged.expected, judged.task
    yield f"examples   {_counted(examples)}"
    yield from _left_out(examples, truncated)
    what = "every label right" if examples.multi else "accuracy"
    yield (
        f"expected   {what} {expected.accuracy:.2f}, {expected.accuracy_low:.2f} to "
        f"{expected.accuracy_high:.2f} with 95 % confidence; macro-F1 {expected.macro_f1:.2f}"
    )
    yield (
        f"           by {fit.folds}-fold cross-validation, {len(fit.held_out)} times; "
        f"C {fit.inverse_regularization:g}"
    )
    yield f"sureness   temperature {task.temperature:.2f}, error {expected.calibration_error:.3f}"
    if task.threshold is not None:
        precision = "none" if expected.precision is None else f"{expected.precision:.2f}"
        yield (
            f"threshold  {task.threshold:.3f}: an answer for {expected.answered:.0%} of texts, "
            f"precision {precision}"
        )
    yield ""
    yield from _confusion(judged) if judged.confusion is not None else _by_label(judged, examples)


def learning_curve(curve: "Curve", *, title: str, multi: bool) -> bytes:
    """A PNG: how good heads are by how many examples they saw, mean and spread of the draws."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    mean, spread = curve.scores.mean(axis=1), curve.scores.std(axis=1)
    axes.fill_between(curve.examples, mean - spread, mean + spread, alpha=0.2, linewidth=0)
    axes.plot(curve.examples, mean, marker="o")
    axes.set(
        title=title,
        xlabel="examples seen",
        ylabel="macro-F1 of the others" if multi else "accuracy on the others",
        ylim=(0, 1),
    )
    axes.grid(visible=True, alpha=0.3)
    written = BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def _counted(examples: Examples) -> str:
    counts = examples.counts()
    fewest, most = min(counts.values()), max(counts.values())
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{len(examples.texts)}, {each} of each of {len(counts)} labels"


def _left_out(examples: Examples, truncated: int) -> Iterator[str]:
    if examples.repeated:
        yield f"           {examples.repeated} rows left out that repeat another"
    if places := examples.contradictions:
        more = f" and {len(places) - _MOST_PLACES} more" if len(places) > _MOST_PLACES else ""
        yield f"           {len(places)} rows left out that give one text different labels: " + (
            ", ".join(places[:_MOST_PLACES]) + more
        )
    if truncated:
        yield f"           {truncated} texts are too long, and only their beginning was read"


def _confusion(judged: Judged) -> Iterator[str]:
    assert judged.confusion is not None, "asked only where there is one"
    names = [_short(label) for label in judged.task.labels]
    wide = max(map(len, names))
    columns = [max(len(name), 4) for name in names]
    yield "what is right, by row, and what was said, by column"
    yield " ".join(
        [" " * wide, *(f"{n:>{w}}" for n, w in zip(names, columns, strict=True)), "  F1"]
    )
    for name, counts, f1 in zip(names, judged.confusion, judged.f1, strict=True):
        cells = (f"{count or '.':>{w}}" for count, w in zip(counts, columns, strict=True))
        yield " ".join([f"{name:<{wide}}", *cells, f"{f1:.2f}"])


def _by_label(judged: Judged, examples: Examples) -> Iterator[str]:
    names = [_short(label) for label in judged.task.labels]
    wide = max(map(len, names))
    yield f"{'':<{wide}} examples   F1"
    counts = examples.counts()
    for name, label, f1 in zip(names, judged.task.labels, judged.f1, strict=True):
        yield f"{name:<{wide}} {counts[label]:>8} {f1:.2f}"


def _short(label: str) -> str:
    return label if len(label) <= _WIDEST_LABEL else label[: _WIDEST_LABEL - 1] + "…"


def figures(judged: Judged, curve: "Curve") -> dict[str, object]:
    """The same for machines."""
    return {
        "labels": list(judged.task.labels),
        "temperature": judged.task.temperature,
        "threshold": judged.task.threshold,
        "expected": judged.expected.model_dump(),
        "f1": dict(zip(judged.task.labels, judged.f1, strict=True)),
        "confusion": None if judged.confusion is None else judged.confusion.tolist(),
        "learning_curve": {
            "examples": curve.examples,
            "mean": np.round(curve.scores.mean(axis=1), 4).tolist(),
            "spread": np.round(curve.scores.std(axis=1), 4).tolist(),
        },
    }
