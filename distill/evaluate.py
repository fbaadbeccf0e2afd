"""Verb: measure folders per language, all of them alike.

    lightmbert distill evaluate distill/recipes/mini-6-ship.toml

Model folders are measured through the code that serves them, folders of others through the
names their adapter gives, and encoder folders through torch: a teacher is often too large to be
worth a graph of its own. The tables are printed and written as evaluation.json (scores),
summary.json, evaluation.md and heatmap.png. The folder `model_dir` is told what was found: its
manifest and CARD.md.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import orjson
import torch
from rich.console import Console
from rich.table import Table as Grid
from threadpoolctl import threadpool_limits

from app.runtime.artifact import load_manifest, save_manifest
from distill.adapters import AdaptedEncoder
from distill.card import card
from distill.confidence import confidence_tables
from distill.config import LoadedRecipe, RecipeError, require
from distill.encoders import Encoder, FolderEncoder, TorchEncoder, WithHeads, check_encoder
from distill.heatmap import write_heatmap
from distill.logistic import fit_head
from distill.report import retention_tables, summary_json, summary_rows, tables
from distill.speed import speeds
from distill.suite import Evaluation, Results, System, chances, classifications, measure
from distill.tables.evaluate import EvaluateTable, SystemTable
from distill.zero_shot import zero_shot_scale

Named = tuple[str, Encoder]


def run(loaded: LoadedRecipe) -> None:
    """Measure, print, write."""
    table, threads = require(loaded.recipe.evaluate, "evaluate"), loaded.recipe.run.threads
    torch.set_num_threads(threads)
    runs: dict[str, list[Results]] = {}
    guesses: Results = {}
    _check(table)
    for name, encoder in _encoders(table, threads=threads, seed=loaded.recipe.run.seed):
        results = measure(encoder, table)
        guesses |= chances(encoder, table, results)
        if table.mteb is not None:
            # an extra of its own, that may not be installed
            from distill.mteb_tasks import run_tasks

            results |= run_tasks(name, encoder, table.mteb, source_language=table.source_language)
        runs.setdefault(name, []).append(results)
        evaluation = Evaluation(
            tuple(System(name, tuple(results)) for name, results in runs.items()), guesses
        )
        _write_scores(evaluation, table)  # each system may have taken hours
    _check_measured(evaluation, table)
    _print(evaluation, table)
    _write(evaluation, table)
    if table.model_dir is not None:
        _tell(table.model_dir, evaluation, table, threads=threads)


def _encoders(table: EvaluateTable, *, threads: int, seed: int) -> Iterator[Named]:
    """One at a time, so that no two lie in memory together; those of a system by one name."""
    for name, encoder in _as_they_are(table, threads):
        probes = [probe for probe in table.probes if probe.task not in encoder.tasks]
        # scikit-learn's threads spin while they wait: 25 times the work on a busy machine
        with threadpool_limits(threads):
            heads = {p.task: fit_head(encoder, p, seed=seed).head for p in probes}
        yield name, WithHeads(encoder, heads) if heads else encoder


def _as_they_are(table: EvaluateTable, threads: int) -> Iterator[Named]:
    for name, sources in table.encoders.items():
        for source in (sources,) if isinstance(sources, str) else sources:
            yield name, TorchEncoder(source, max_tokens=table.max_tokens)
    for system in table.systems:
        for folder in system.folders:
            yield system.name, _of_folder(system, folder, threads)
    for precision in _served(table):
        assert table.model_dir is not None, "only a model folder has variants"
        yield precision, FolderEncoder(table.model_dir, precision=precision, threads=threads)


def _of_folder(system: SystemTable, folder: Path, threads: int) -> Encoder:
    if system.adapter is not None:
        return AdaptedEncoder(folder, system.adapter, threads=threads)
    assert system.precision is not None, "SystemTable checked that it has one of both"
    return FolderEncoder(folder, precision=system.precision, threads=threads)


def _served(table: EvaluateTable) -> list[str]:
    """Precisions of `model_dir` that a CPU runs; each is a system of that name.

    Raises:
        RecipeError: another system is called so.
    """
    if table.model_dir is None:
        return []
    manifest = load_manifest(table.model_dir)
    found = list(dict.fromkeys(v.precision for v in manifest.variants if v.target != "cuda"))
    taken = {*table.encoders, *(system.name for system in table.systems)}
    if both := sorted(taken.intersection(found)):
        raise RecipeError(f"a system is called {both[0]!r}, as a variant of {table.model_dir} is")
    return [str(precision) for precision in found]


def _check(table: EvaluateTable) -> None:
    """Refuse what is not there before the first of many is measured; reads no weights."""
    for sources in table.encoders.values():
        for source in (sources,) if isinstance(sources, str) else sources:
            check_encoder(source, max_tokens=table.max_tokens)
    for system in table.systems:
        for folder in system.folders if system.adapter is None else ():
            load_manifest(folder)
    _served(table)


def _check_measured(evaluation: Evaluation, table: EvaluateTable) -> None:
    """Refuse an evaluation of nothing.

    Raises:
        RecipeError: no system has a head for any of what was asked.
    """
    if not evaluation.benchmarks:
        asked = ", ".join(sorted({each.task for each in classifications(table)}))
        raise RecipeError(f"nothing was measured: no system has a head for {asked}; see probes")


def _print(evaluation: Evaluation, table: EvaluateTable) -> None:
    console = Console()
    measured = {
        language
        for system in evaluation.systems
        for run in system.runs
        for scores in run.values()
        for language in scores
    }
    if lacking := [language for language in table.languages if language not in measured]:
        console.print(
            f"[bold yellow]warning:[/] no benchmark has {', '.join(lacking)}", soft_wrap=True
        )
    for benchmark in evaluation.benchmarks:
        names = [system.name for system in evaluation.systems]
        grid = Grid("language", *names, title=benchmark)
        for row in summary_rows(evaluation, benchmark, table):
            grid.add_row(*row)
        console.print(grid)


def _write_scores(evaluation: Evaluation, table: EvaluateTable) -> None:
    table.report.mkdir(parents=True, exist_ok=True)
    scores = {system.name: _means(system) for system in evaluation.systems}
    _write_json(table.report / "evaluation.json", scores)


def _write(evaluation: Evaluation, table: EvaluateTable) -> None:
    _write_json(table.report / "summary.json", summary_json(evaluation, table))
    text = tables(evaluation, table) + "\n" + retention_tables(evaluation, table)
    (table.report / "evaluation.md").write_text(text, encoding="utf-8")
    panels = {
        benchmark: {
            system.name: system.scores(benchmark)
            for system in evaluation.systems
            if system.each(benchmark)
        }
        for benchmark in evaluation.benchmarks
    }
    write_heatmap(table.report / "heatmap.png", panels, table.languages)


def _means(system: System) -> Results:
    return {name: system.scores(name) for run in system.runs for name in run}


def _defined(results: Results) -> Results:
    """A manifest holds numbers alone: a correlation with scores that are all alike is none."""
    return {
        name: {language: score for language, score in scores.items() if math.isfinite(score)}
        for name, scores in results.items()
    }


def _write_json(path: Path, content: object) -> None:
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    path.write_bytes(orjson.dumps(content, option=options))


def _tell(model_dir: Path, evaluation: Evaluation, table: EvaluateTable, *, threads: int) -> None:
    """Put scores and scale into the folder's manifest, and write its card."""
    manifest, served = load_manifest(model_dir), _served(table)
    metrics = {name: _defined(_means(evaluation.system(name))) for name in served}
    provenance = manifest.provenance.model_copy(update={"metrics": metrics})
    manifest = manifest.model_copy(update={"provenance": provenance})
    save_manifest(model_dir, manifest)  # what was measured, even if no scale can be fitted
    confidence = ""
    if served:
        last = FolderEncoder(model_dir, precision=served[-1], threads=threads)
        if table.zero_shot is not None:
            scale = zero_shot_scale(last, table.zero_shot, table.languages)
            manifest = manifest.model_copy(update={"zero_shot": scale})
            save_manifest(model_dir, manifest)
        confidence = confidence_tables(last, table)
    measured = speeds(model_dir, manifest, threads=threads)
    text = card(
        manifest, evaluation, table, speeds=measured, threads=threads, confidence=confidence
    )
    (model_dir / "CARD.md").write_text(text, encoding="utf-8")
