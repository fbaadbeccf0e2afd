"""From examples to a head in its folder: embed, fit, judge, draw, publish."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from app.bulk import Embed, answer_all, engine_alone
from app.engine import Engine
from app.files import Row
from app.head_file import FittedOn, HeadError, HeadFile, check_name
from app.head_folder import list_heads, publish_head
from app.head_report import figures, learning_curve, report
from app.judging import judged
from app.labelled_rows import Examples
from app.runtime.artifact import HashedFile, TaskName, load_manifest
from app.runtime.calibration import Problem
from app.runtime.outputs import Floats
from app.settings import Settings

if TYPE_CHECKING:
    from app.fitting import ClassWeight

_TO_BE_FILLED_IN = HashedFile(file="head.safetensors", sha256="0" * 64)


@dataclass(frozen=True)
class Wishes:
    """What the user asks of a head."""

    class_weight: "ClassWeight" = None
    threshold: float | None = None
    precision: float | None = None


@dataclass(frozen=True)
class FittedHere:
    """A head that has just been published."""

    folder: Path
    lines: list[str]
    """What it is like, for people."""
    figures: dict[str, Any]
    """The same for machines."""


@dataclass(frozen=True, eq=False)
class _Embedded:
    vectors: Floats
    """(N, D)"""
    truncated: int
    """Texts of which only the beginning was read."""


def check_new_name(name: str, settings: Settings) -> None:
    """Raise HeadError if no head may be called so, or another model has one of that name."""
    try:
        TypeAdapter(TaskName).validate_python(name)
    except ValidationError:
        raise HeadError(
            f"{name!r} is no name for a head: use a-z, 0-9 and _, at most 64, and no _ at first"
        ) from None
    manifest = load_manifest(settings.model_dir)
    check_name(name, manifest)
    there = list_heads(settings.heads_dir, only=name).get(name)
    if isinstance(there, HeadFile) and there.fitted_on.model != manifest.name:
        raise HeadError(
            f"there is a head {name!r} already, fitted on {there.fitted_on.model}, and this is "
            f"{manifest.name}; choose another name, or remove it first"
        )


def fit_head(name: str, examples: Examples, wishes: Wishes, settings: Settings) -> FittedHere:
    """Fit a head and put it where services find it.

    Raises:
        HeadError: scikit-learn or matplotlib is not installed, no threshold has the precision
            asked for, or the folder cannot be written.
        ModelError, InferenceError: the model cannot be used.
    """
    try:
        import matplotlib  # noqa: F401 - optional, like scikit-learn: said before any work is done

        from app.fitting import Fitter
    except ModuleNotFoundError as error:
        raise HeadError(
            f"to fit a head needs {error.name}: pip install 'lightmbert[heads]'"
        ) from error
    engine = engine_alone(settings)
    embedded = _embedded(examples, engine)
    labels = examples.known
    targets = np.array(
        [[label in each for label in labels] for each in examples.labels], np.float32
    )
    problem: Problem = "multi" if examples.multi else "single"
    fitter = Fitter(
        embedded.vectors,
        targets,
        problem=problem,
        class_weight=wishes.class_weight,
        labels=labels,
    )
    fit = fitter.fit()
    curve = fitter.curve(fit.inverse_regularization)
    found = judged(
        fit.probabilities(problem),
        targets,
        labels=labels,
        problem=problem,
        temperature=fit.temperature,
        threshold=wishes.threshold,
        precision=wishes.precision,
    )
    manifest = engine.manifest
    folder = publish_head(
        settings.heads_dir,
        HeadFile(
            name=name,
            fitted_on=FittedOn(
                model=manifest.name,
                revision=manifest.revision,
                dimension=manifest.embedding_dimension,
            ),
            task=found.task,
            weights=_TO_BE_FILLED_IN,
            expected=found.expected,
            created=datetime.now(UTC).date().isoformat(),
            data_sha256=examples.sha256(),
        ),
        weight=fit.linear.weight,
        bias=fit.linear.bias,
        picture=learning_curve(curve, title=name, multi=examples.multi),
    )
    lines = [
        *report(examples, fit, found, truncated=embedded.truncated),
        "",
        f"written    {folder}",
        f"picture    {folder / 'learning_curve.png'}",
    ]
    return FittedHere(folder, lines, figures(found, curve))


def _embedded(examples: Examples, engine: Engine) -> _Embedded:
    vectors, truncated = [], 0
    with closing(answer_all(_rows(examples), Embed(None), engine, truncate=True)) as chunks:
        for answered in (each for chunk in chunks for each in chunk):
            assert answered.result is not None, "no text is blank, and long ones are cut"
            vectors.append(answered.result["embedding"])
            truncated += answered.status == "truncated"
    return _Embedded(np.stack(vectors), truncated)


def _rows(examples: Examples) -> Iterator[Row]:
    for number, text in enumerate(examples.texts, start=1):
        yield Row("", number, text)
