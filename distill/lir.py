"""Verbs: take out of embeddings what all sentences of a language share (see `distill.languages`).

    lightmbert distill lir fit RECIPE      # directions of each language, and of all together
    lightmbert distill lir measure RECIPE  # Tatoeba and STS without them
    lightmbert distill lir apply RECIPE    # a model folder whose embeddings are without those of all

Only the directions of all languages together go into graphs: those of each need the language of
every text, which the service is not told. They can be measured, as what knowing it would bring.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.table import Table as Grid
from scipy.stats import spearmanr

from app.runtime.artifact import (
    MANIFEST_FILE,
    Golden,
    Manifest,
    Variant,
    load_manifest,
    save_manifest,
    sha256_of,
    verify_file,
)
from app.runtime.outputs import Floats, unit_vectors
from distill.benchmarks import languages_in
from distill.config import LoadedRecipe, RecipeError, require
from distill.corpus import load_corpus
from distill.encoders import Encoder, FolderEncoder, TorchEncoder, embeddings
from distill.languages import (
    Directions,
    LanguageError,
    fit_directions,
    fold,
    load_directions,
    save_directions,
    without,
)
from distill.parity import gate_golden
from distill.reading import read_table
from distill.tables.lir import ApplyTable, FitTable, MeasureTable

GOLDEN_DECIMALS = 6
Remove = Callable[[Floats, str], Floats]
"""Embeddings (N, H) and their language -> embeddings."""


def fit(loaded: LoadedRecipe) -> None:
    """Write the directions that the recipe's `[lir.fit]` table asks for."""
    lir = require(loaded.recipe.lir, "lir")
    table = require(lir.fit, "lir.fit")
    encoder = _encoder(table.source, table.max_tokens, threads=loaded.recipe.run.threads)
    found = {
        language: embeddings(encoder, texts)
        for language, texts in _texts(table, seed=loaded.recipe.run.seed)
    }
    save_directions(lir.directions, fit_directions(found, rank=table.rank))


def _texts(table: FitTable, *, seed: int) -> Iterator[tuple[str, list[str]]]:
    corpus = load_corpus(table.corpus, exponent=0.0)
    if lacking := sorted(set(table.languages) - set(corpus.languages)):
        raise RecipeError(
            f"the corpus has no text of {', '.join(lacking)}; it has: {', '.join(corpus.languages)}"
        )
    for language in table.languages:
        yield language, corpus.of_language(language, at_most=table.texts_per_language, seed=seed)


def _encoder(source: str, max_tokens: int, *, threads: int) -> Encoder:
    torch.set_num_threads(threads)
    if (Path(source) / MANIFEST_FILE).is_file():
        return FolderEncoder(Path(source), precision="auto", threads=threads)
    return TorchEncoder(source, max_tokens=max_tokens)


def apply(loaded: LoadedRecipe) -> None:
    """Write the model folder that the recipe's `[lir.apply]` table asks for."""
    lir = require(loaded.recipe.lir, "lir")
    table = require(lir.apply, "lir.apply")
    apply_to(table, load_directions(lir.directions))


def apply_to(table: ApplyTable, directions: Directions) -> Manifest:
    """Fold directions into every variant of a model folder, and check its golden outputs.

    Scores are left out of the new manifest: they are of other embeddings.

    Raises:
        LanguageError: the directions are of another width or rank, or are folded in already.
        ParityError: a variant does not give the golden outputs, projected; nothing is written.
    """
    manifest, taken = load_manifest(table.model_dir), directions.first(table.rank)
    widths = {manifest.hidden_width, manifest.embedding_dimension}
    if widths != {len(taken)}:
        raise LanguageError(
            f"directions are {len(taken)} wide; {table.model_dir} is {manifest.hidden_width}, of "
            f"which {manifest.embedding_dimension} are served"
        )
    partial = table.folder.with_name(table.folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        projected = _projected(manifest, taken, table, partial)
        for variant in projected.variants:
            gate_golden(partial, projected, variant)
        save_manifest(partial, projected)
        shutil.rmtree(table.folder, ignore_errors=True)
        partial.rename(table.folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return projected


def _projected(manifest: Manifest, taken: Floats, table: ApplyTable, partial: Path) -> Manifest:
    shutil.copy(verify_file(table.model_dir, manifest.tokenizer), partial / manifest.tokenizer.file)
    provenance = manifest.provenance.model_copy(update={"metrics": {}})
    return manifest.model_copy(
        update={
            "revision": table.revision,
            "variants": tuple(_folded(v, taken, table, partial) for v in manifest.variants),
            "golden": tuple(_golden(golden, taken) for golden in manifest.golden),
            "provenance": provenance,
        }
    )


def _folded(variant: Variant, taken: Floats, table: ApplyTable, partial: Path) -> Variant:
    model = onnx.load(verify_file(table.model_dir, variant))
    fold(model, taken)
    path = partial / variant.file
    onnx.save(model, path)
    return variant.model_copy(update={"sha256": sha256_of(path), "bytes": path.stat().st_size})


def _golden(golden: Golden, taken: Floats) -> Golden:
    row = without(np.array([golden.embedding], dtype=np.float32), taken)
    [unit] = unit_vectors(row, row.shape[1])
    embedding = tuple(round(float(value), GOLDEN_DECIMALS) for value in unit)
    return golden.model_copy(update={"embedding": embedding})


@dataclass(frozen=True)
class Scores:
    """Of one removal, language -> score."""

    to_source: dict[str, float]
    from_source: dict[str, float]
    sts: dict[str, float]


def measure(loaded: LoadedRecipe) -> None:
    """Print retrieval and similarity without and with each removal, as `[lir.measure]` asks."""
    lir = require(loaded.recipe.lir, "lir")
    table = require(lir.measure, "lir.measure")
    encoder = _encoder(table.source, table.max_tokens, threads=loaded.recipe.run.threads)
    _print(scores(encoder, table, load_directions(lir.directions)))


def scores(encoder: Encoder, table: MeasureTable, directions: Directions) -> dict[str, Scores]:
    """Name of a removal -> scores, for ranks 1 and up, of all languages and of each."""
    removals: dict[str, Remove] = {"as it is": lambda rows, language: rows}
    for rank in range(1, directions.of_all.shape[1] + 1):
        removals[f"of all, {rank}"] = _of_all(directions, rank)
        removals[f"of each, {rank}"] = _of_each(directions, rank)
    bitext, similar = dict(_bitext(encoder, table)), dict(_similar(encoder, table))
    return {name: _scores(remove, bitext, similar, table) for name, remove in removals.items()}


def _of_all(directions: Directions, rank: int) -> Remove:
    return lambda rows, language: directions.removed(rows, rank=rank)


def _of_each(directions: Directions, rank: int) -> Remove:
    return lambda rows, language: directions.removed(rows, rank=rank, language=language)


@dataclass(frozen=True)
class _Pairs:
    """Embeddings of both sides, (N, H), and how similar people find them, (N,)."""

    one: Floats
    other: Floats
    gold: Floats | None = None


def _bitext(encoder: Encoder, table: MeasureTable) -> Iterator[tuple[str, _Pairs]]:
    for language in languages_in(table.tatoeba, table.languages):
        if language != table.source_language:
            rows = read_table(table.tatoeba / f"{language}.parquet", columns=("text", "text_en"))
            one, other = (embeddings(encoder, rows[c].to_pylist()) for c in ("text", "text_en"))
            yield language, _Pairs(one, other)


def _similar(encoder: Encoder, table: MeasureTable) -> Iterator[tuple[str, _Pairs]]:
    for language in languages_in(table.sts, table.languages):
        rows = read_table(
            table.sts / f"{language}.parquet",
            columns=("sentence1", "sentence2", "score"),
            where={"split": table.split},
        ).slice(0, table.max_sts_pairs)
        one, other = (embeddings(encoder, rows[f"sentence{n}"].to_pylist()) for n in (1, 2))
        yield language, _Pairs(one, other, rows["score"].to_numpy())


def _scores(
    remove: Remove,
    bitext: Mapping[str, _Pairs],
    similar: Mapping[str, _Pairs],
    table: MeasureTable,
) -> Scores:
    found = Scores({}, {}, {})
    for language, pairs in bitext.items():
        one = _unit(remove(pairs.one, language))
        cosine = one @ _unit(remove(pairs.other, table.source_language)).T
        own = np.arange(len(one))
        found.to_source[language] = float(np.mean(cosine.argmax(1) == own))
        found.from_source[language] = float(np.mean(cosine.argmax(0) == own))
    for language, pairs in similar.items():
        one, other = (_unit(remove(side, language)) for side in (pairs.one, pairs.other))
        found.sts[language] = float(spearmanr((one * other).sum(1), pairs.gold).statistic)
    return found


def _unit(rows: Floats) -> Floats:
    return unit_vectors(rows, rows.shape[1])


def _print(measured: Mapping[str, Scores]) -> None:
    for field in ("to_source", "from_source", "sts"):
        grid = Grid("language", *measured, title=field)
        columns = [getattr(found, field) for found in measured.values()]
        for language in columns[0]:
            grid.add_row(language, *(f"{column[language]:.3f}" for column in columns))
        grid.add_row("mean", *(f"{np.mean([*column.values()]):.4f}" for column in columns))
        Console().print(grid)
