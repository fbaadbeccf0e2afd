"""Verb: put a model folder in the place of another, if it keeps to the recipe's limits.

    lightmbert distill promote RECIPE

Every variant is held to the golden outputs of fp32, and every score of those that a CPU runs to
the reference's, language by language: a mean hides the language that fails. All that is over its
limit is named, and then nothing is written.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from app.errors import LightMBERTError
from app.runtime.artifact import Manifest, Tolerance, load_manifest, verify_file
from distill.config import LoadedRecipe, require
from distill.parity import ParityError, gate_golden
from distill.tables.promote import PromoteTable

Evaluation = dict[str, dict[str, dict[str, float]]]
"""System -> benchmark -> language -> score."""


class PromotionError(LightMBERTError):
    """A candidate is over a limit, or was not measured."""

    code = "not_promoted"


def promote(table: PromoteTable) -> None:
    """Copy the candidate to its place, whole or not at all.

    Raises:
        ManifestError: the candidate is not a model folder, or was altered.
        PromotionError: it is over a limit, or a score to compare is missing.
    """
    manifest = load_manifest(table.candidate)
    verify_file(table.candidate, manifest.tokenizer)
    evaluation = _evaluation(table.evaluation)
    found = [*_strayed(manifest, table), *_lost(manifest, evaluation, table)]
    if found:
        raise PromotionError(f"{table.candidate} is not promoted: {'; '.join(found)}")
    _put(table.candidate, table.folder)


def _strayed(manifest: Manifest, table: PromoteTable) -> Iterator[str]:
    """Variants that are too far from the golden outputs."""
    limit = Tolerance(
        min_cosine=table.min_cosine, max_probability_error=table.max_probability_error
    )
    for variant in manifest.variants:
        held = variant.model_copy(update={"tolerance": limit})
        try:
            gate_golden(table.candidate, manifest, held)
        except ParityError as error:
            yield str(error)


def _lost(manifest: Manifest, evaluation: Evaluation, table: PromoteTable) -> Iterator[str]:
    """Scores that are too far below the reference's."""
    reference = _of_system(evaluation, table.reference, table)
    served = dict.fromkeys(v.precision for v in manifest.variants if v.target != "cuda")
    for precision in served:
        if precision == table.reference:
            continue
        scores = _of_system(evaluation, precision, table)
        if scores != manifest.provenance.metrics.get(precision):
            raise PromotionError(
                f"{table.evaluation} holds other scores of {precision} than {table.candidate} "
                "says of itself: evaluate it again"
            )
        for benchmark, most in table.max_loss.items():
            yield from _below(
                f"{precision}, {benchmark}",
                _of_benchmark(scores, benchmark, precision, table),
                _of_benchmark(reference, benchmark, table.reference, table),
                most,
            )


def _below(
    what: str, scores: dict[str, float], reference: dict[str, float], most: float
) -> Iterator[str]:
    for language, expected in reference.items():
        if language not in scores:
            yield f"{what}, {language}: no score"
        # Negated, so that a score that is not a number is refused too.
        elif not expected - scores[language] <= most:
            loss = expected - scores[language]
            yield f"{what}, {language}: {scores[language]:.4f} is {loss:.4f} lower; at most {most}"


def _of_system(
    evaluation: Evaluation, name: str, table: PromoteTable
) -> dict[str, dict[str, float]]:
    if name not in evaluation:
        raise PromotionError(
            f"{table.evaluation} has no scores of {name!r}; it has: {', '.join(evaluation)}"
        )
    return evaluation[name]


def _of_benchmark(
    scores: dict[str, dict[str, float]], benchmark: str, name: str, table: PromoteTable
) -> dict[str, float]:
    if benchmark not in scores:
        raise PromotionError(
            f"{table.evaluation} has no {benchmark!r} of {name}; it has: {', '.join(scores)}"
        )
    return scores[benchmark]


def _evaluation(path: Path) -> Evaluation:
    try:
        evaluation: Evaluation = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise PromotionError(f"{path} does not exist; run evaluate first") from error
    except ValueError as error:
        raise PromotionError(f"{path} is not an evaluation.json: {error}") from error
    return evaluation


def _put(candidate: Path, folder: Path) -> None:
    partial, former = (folder.with_name(folder.name + end) for end in (".partial", ".former"))
    shutil.rmtree(partial, ignore_errors=True)
    if former.exists() and not folder.exists():  # killed between the two renames below
        former.rename(folder)
    shutil.rmtree(former, ignore_errors=True)
    try:
        shutil.copytree(candidate, partial)
        if folder.exists():
            folder.rename(former)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(former, ignore_errors=True)


def run(loaded: LoadedRecipe) -> None:
    """Promote what the recipe's `[promote]` table names."""
    table = require(loaded.recipe.promote, "promote")
    promote(table)
    Console().print(f"{table.candidate} took the place {table.folder}")
