"""An evaluation as tables: a row per language, then what the languages say together."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from distill.comparison import Scores, retention, spread, summary_of
from distill.suite import Evaluation, System, meaning
from distill.tables.evaluate import EvaluateTable

SummaryJson = dict[str, dict[str, dict[str, float | None]]]
RowsOf = Callable[[Evaluation, str, EvaluateTable], list[tuple[str, ...]]]
"""Rows of a benchmark's table."""


@dataclass(frozen=True)
class Figure:
    """A mean over folders that differ in their seed, and its standard deviation."""

    mean: float | None
    spread: float | None

    def __str__(self) -> str:
        if self.mean is None:
            return ""
        return f"{self.mean:.3f}" + ("" if self.spread is None else f" ±{self.spread:.3f}")


def figure(values: Iterable[float | None]) -> Figure:
    known = [value for value in values if value is not None]
    return Figure(fmean(known) if known else None, spread(known))


@dataclass(frozen=True)
class Figures:
    """What the languages of one system on one benchmark say together."""

    source: Figure
    others: Figure
    worst: Figure
    gap: Figure
    """Source minus mean of the others."""
    retention: Figure
    """Of the mean of the others, by ratio."""
    retention_above_chance: Figure


def figures_of(
    system: System, benchmark: str, evaluation: Evaluation, table: EvaluateTable
) -> Figures:
    """Computed for each folder, so that spread is over seeds and not over languages."""
    source = table.source_language
    runs = [summary_of(scores, source) for scores in system.each(benchmark)]
    teacher = summary_of(evaluation.system(table.teacher).scores(benchmark), source).others
    chance = evaluation.chance(benchmark, without=source)
    return Figures(
        source=figure(run.source for run in runs),
        others=figure(run.others for run in runs),
        worst=figure(run.worst for run in runs),
        gap=figure(run.gap for run in runs),
        retention=figure(retention(run.others, teacher) for run in runs),
        retention_above_chance=figure(
            retention(run.others, teacher, chance=chance) for run in runs
        ),
    )


def summary_rows(
    evaluation: Evaluation, benchmark: str, table: EvaluateTable
) -> list[tuple[str, ...]]:
    """Rows of a benchmark's table, a cell per system."""
    systems = evaluation.systems
    rows = [
        (language, *(str(figure(_values(system, benchmark, language))) for system in systems))
        for language in table.languages
        if any(_values(system, benchmark, language) for system in systems)
    ]
    found = [figures_of(system, benchmark, evaluation, table) for system in systems]
    told: list[tuple[str, Callable[[Figures], Figure]]] = [
        ("mean of the others", lambda figures: figures.others),
        ("worst of the others", lambda figures: figures.worst),
        (f"gap: {table.source_language} - mean", lambda figures: figures.gap),
        (f"retention of {table.teacher}", lambda figures: figures.retention),
        ("retention above chance", lambda figures: figures.retention_above_chance),
    ]
    return rows + [(name, *(str(of(figures)) for figures in found)) for name, of in told]


def retention_rows(
    evaluation: Evaluation, benchmark: str, table: EvaluateTable
) -> list[tuple[str, ...]]:
    """Retention above chance of each language, a cell per system."""
    teacher = evaluation.system(table.teacher).scores(benchmark)
    chance = evaluation.chances.get(benchmark, {})
    return [
        (
            language,
            *(
                str(
                    figure(
                        retention(value, teacher.get(language), chance=chance.get(language, 0.0))
                        for value in _values(system, benchmark, language)
                    )
                )
                for system in evaluation.systems
            ),
        )
        for language in table.languages
        if language in teacher
    ]


def summary_json(evaluation: Evaluation, table: EvaluateTable) -> dict[str, SummaryJson]:
    """System -> benchmark -> figure -> mean and spread."""
    return {
        system.name: {
            benchmark: {
                name: {"mean": figure.mean, "spread": figure.spread}
                for name, figure in vars(figures_of(system, benchmark, evaluation, table)).items()
            }
            for benchmark in evaluation.benchmarks
            if system.each(benchmark)
        }
        for system in evaluation.systems
    }


def tables(evaluation: Evaluation, table: EvaluateTable) -> str:
    """Markdown: one table per benchmark, a column per system."""
    return _sections(evaluation, table, summary_rows)


def retention_tables(evaluation: Evaluation, table: EvaluateTable) -> str:
    """Markdown: retention above chance of each language, one table per benchmark."""
    told = f": share of {table.teacher} above chance"
    return _sections(evaluation, table, retention_rows, told=told)


def _sections(evaluation: Evaluation, table: EvaluateTable, rows: RowsOf, *, told: str = "") -> str:
    header = ["language", *(system.name for system in evaluation.systems)]
    sections = (
        f"### {meaning(benchmark, table)}{told}\n\n"
        + markdown(header, rows(evaluation, benchmark, table))
        for benchmark in evaluation.benchmarks
    )
    return "\n\n".join(sections) + "\n"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(_line(cells) for cells in (header, ["---"] * len(header), *rows))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _values(system: System, benchmark: str, language: str) -> list[float]:
    runs: list[Scores] = system.each(benchmark)
    return [run[language] for run in runs if language in run]
