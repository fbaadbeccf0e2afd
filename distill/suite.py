"""All benchmarks of an `[evaluate]` table on one encoder, and what guessing would score."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from distill import benchmarks
from distill.comparison import Scores, mean_scores
from distill.encoders import Encoder
from distill.reading import read_table
from distill.tables.evaluate import ClassificationTable, EvaluateTable
from distill.tables.labelled import LabelledFolder

Results = dict[str, Scores]
"""Benchmark -> language -> score."""

MEANING = {
    "tatoeba_to_english": "Tatoeba, accuracy@1 of finding the English translation",
    "tatoeba_from_english": "Tatoeba, accuracy@1 of finding the translation of the English",
    "tatoeba_closer": "Tatoeba, share of sentences nearer to their translation than to another "
    "sentence of their own language",
    "sts": "STS-B, Spearman correlation with human similarity",
}


@dataclass(frozen=True)
class System:
    """One column of a report: a folder, or several that differ in their seed alone."""

    name: str
    runs: tuple[Results, ...]
    """One per folder."""

    def scores(self, benchmark: str) -> Scores:
        """Mean over its folders; empty where it was not measured."""
        runs = self.each(benchmark)
        return mean_scores(runs) if runs else {}

    def each(self, benchmark: str) -> list[Scores]:
        return [run[benchmark] for run in self.runs if benchmark in run]


@dataclass(frozen=True)
class Evaluation:
    """Systems in the order of the report's columns."""

    systems: tuple[System, ...]
    chances: Results
    """What guessing scores."""

    @property
    def benchmarks(self) -> list[str]:
        found = (name for system in self.systems for run in system.runs for name in run)
        return list(dict.fromkeys(found))

    def system(self, name: str) -> System:
        return next(system for system in self.systems if system.name == name)

    def chance(self, benchmark: str, *, without: str) -> float:
        """Mean over languages, all but one: what the mean of the others is held against."""
        by_language = self.chances.get(benchmark, {})
        return fmean([c for lang, c in by_language.items() if lang != without] or [0.0])


def measure(encoder: Encoder, table: EvaluateTable) -> Results:
    """Every benchmark the encoder can answer: one without heads gets no classification scores."""
    languages, found = table.languages, Results()
    if table.tatoeba is not None:
        retrieval = benchmarks.tatoeba(encoder, table.tatoeba, languages)
        found |= {f"tatoeba_{kind}": scores for kind, scores in retrieval.items()}
    if table.sts is not None and table.max_sts_pairs is not None:
        found["sts"] = benchmarks.sts(
            encoder, table.sts, languages, split=table.split, max_pairs=table.max_sts_pairs
        )
    for asked in classifications(table):
        if asked.task in encoder.tasks:
            found[asked.name] = benchmarks.classification(
                encoder, asked.rows, languages, task=asked.task, metric=asked.metric
            )
    return found


def classifications(table: EvaluateTable) -> list[ClassificationTable]:
    """Topic (SIB-200, arXiv:2309.07445), sentiment (UMSAB, arXiv:2104.12250), the table's own."""
    source = table.source_language
    found = []
    if table.topic is not None:
        heading = f"SIB-200 topic, accuracy; the head saw {source} only"
        found.append(_known("topic", "accuracy", heading, table.topic, table.split))
    if table.sentiment is not None:
        heading = f"UMSAB sentiment, macro-F1; the head saw {source} only"
        found.append(_known("sentiment", "macro_f1", heading, table.sentiment, table.split))
    return [*found, *table.classification]


def _known(
    name: str, metric: benchmarks.Metric, meaning: str, folder: Path, split: str
) -> ClassificationTable:
    rows = LabelledFolder(
        folder=folder, text_column="text", label_column="label", where={"split": split}
    )
    return ClassificationTable(name=name, task=name, metric=metric, meaning=meaning, rows=rows)


def chances(encoder: Encoder, table: EvaluateTable, results: Results) -> Results:
    """What guessing would score, for each of the encoder's results.

    1 / C of C labels, 1 / N among N pairs, half for `closer`; 0 for a correlation, and for the
    micro-F1 of several labels, where giving none of them scores that. Nothing is told of tasks of
    `mteb`: above chance is there above 0.
    """
    labels = {
        asked.name: len(encoder.tasks[asked.task].labels)
        for asked in classifications(table)
        if asked.name in results and asked.metric != "micro_f1"
    }
    found: Results = {}
    for name, scores in results.items():
        if name in labels:
            found[name] = dict.fromkeys(scores, 1 / labels[name])
        elif name == "tatoeba_closer":
            found[name] = dict.fromkeys(scores, 0.5)
        elif name.startswith("tatoeba") and table.tatoeba is not None:
            files = {language: table.tatoeba / f"{language}.parquet" for language in scores}
            found[name] = {language: 1 / len(read_table(file)) for language, file in files.items()}
        else:
            found[name] = dict.fromkeys(scores, 0.0)
    return found


def meaning(benchmark: str, table: EvaluateTable) -> str:
    """What a benchmark's table is headed by."""
    own = {asked.name: asked.meaning for asked in classifications(table)}
    return (own | MEANING).get(benchmark, benchmark)
