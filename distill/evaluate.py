"""Verb: measure a model folder, and the encoders behind it, per language.

    lightmbert distill evaluate distill/recipes/mini-6-ship.toml

Every variant of the folder is measured through the code that serves it. The table is printed,
written as evaluation.json and evaluation.md, and told to the folder: manifest and CARD.md.
"""

import orjson
import torch
from rich.console import Console
from rich.table import Table as Grid

from app.runtime.artifact import load_manifest, save_manifest
from distill import benchmarks
from distill.benchmarks import Scores
from distill.card import Evaluation, card, summary, tables
from distill.config import LoadedRecipe, require
from distill.encoders import Encoder, FolderEncoder, TorchEncoder
from distill.tables.evaluate import EvaluateTable


def run(loaded: LoadedRecipe) -> None:
    """Measure, print, write."""
    table, threads = require(loaded.recipe.evaluate, "evaluate"), loaded.recipe.run.threads
    torch.set_num_threads(threads)
    evaluation: Evaluation = {}
    for name, source in table.encoders.items():
        evaluation[name] = measure(TorchEncoder(source, max_tokens=table.max_tokens), table)
    manifest = load_manifest(table.model_dir)
    served = dict.fromkeys(v.precision for v in manifest.variants if v.target != "cuda")
    for precision in served:
        encoder = FolderEncoder(table.model_dir, precision=precision, threads=threads)
        evaluation[precision] = measure(encoder, table)
    _print(evaluation, table)
    table.report.mkdir(parents=True, exist_ok=True)
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    (table.report / "evaluation.json").write_bytes(orjson.dumps(evaluation, option=options))
    (table.report / "evaluation.md").write_text(tables(evaluation, table), encoding="utf-8")
    metrics = {precision: evaluation[precision] for precision in served}
    provenance = manifest.provenance.model_copy(update={"metrics": metrics})
    manifest = manifest.model_copy(update={"provenance": provenance})
    save_manifest(table.model_dir, manifest)
    text = card(manifest, evaluation, table)
    (table.model_dir / "CARD.md").write_text(text, encoding="utf-8")


def measure(encoder: Encoder, table: EvaluateTable) -> dict[str, Scores]:
    """Every benchmark the encoder can answer: one without heads gets no classification scores."""
    languages, split = table.languages, table.split
    retrieval = benchmarks.tatoeba(encoder, table.tatoeba, languages)
    scores = {f"tatoeba_{kind}": by_language for kind, by_language in retrieval.items()}
    scores["sts"] = benchmarks.sts(
        encoder, table.sts, languages, split=split, max_pairs=table.max_sts_pairs
    )
    if "topic" in encoder.labels:
        scores["topic"] = benchmarks.topic(encoder, table.topic, languages, split=split)
    if "sentiment" in encoder.labels:
        scores["sentiment"] = benchmarks.sentiment(encoder, table.sentiment, languages, split=split)
    return scores


def _print(evaluation: Evaluation, table: EvaluateTable) -> None:
    console = Console()
    for benchmark in dict.fromkeys(b for scores in evaluation.values() for b in scores):
        grid = Grid("language", *evaluation, title=benchmark)
        for row in summary(evaluation, benchmark, table):
            grid.add_row(*row)
        console.print(grid)
