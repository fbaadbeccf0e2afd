"""The model card of a folder: what the student is, how good per language, and what it is bad at."""

from collections.abc import Sequence

from app.runtime.artifact import Manifest
from distill.report import markdown, tables
from distill.speed import BATCHES, TOKENS, Speed, cpu_name
from distill.suite import Evaluation, meaning
from distill.tables.evaluate import DataTable, EvaluateTable


def card(
    manifest: Manifest,
    evaluation: Evaluation,
    table: EvaluateTable,
    *,
    speeds: Sequence[Speed],
    threads: int,
    confidence: str = "",
) -> str:
    """CARD.md: identity, variants, tasks, data, weaknesses, confidence, scores."""
    told_by = f"Of `{evaluation.systems[-1].name}`, as it answers.\n\n"
    sections = [
        _identity(manifest, table),
        "## Variants\n\n" + _variants(speeds, threads),
        "## Tasks\n\n" + _tasks(manifest),
        *(["## Data\n\n" + _data(table.data)] if table.data else []),
        "## What it is weak at\n\n" + "\n".join([*_told(table), *_weakest(evaluation, table)]),
        *(["## Confidence\n\n" + told_by + confidence] if confidence else []),
        "## Scores\n\n" + _scores(evaluation, table),
    ]
    return "\n\n".join(sections)


def _identity(manifest: Manifest, table: EvaluateTable) -> str:
    provenance = manifest.provenance
    return "\n".join(
        [
            f"# {manifest.name} {manifest.revision}",
            "",
            table.description,
            "",
            f"- Languages: {' '.join(manifest.languages)}",
            f"- Embedding: {manifest.embedding_dimension} dimensions; texts up to "
            f"{manifest.max_tokens} tokens",
            f"- Licence: {manifest.license}",
            f"- Teacher: {provenance.teacher}",
            f"- Made by `{provenance.recipe}` (sha256 {provenance.recipe_sha256[:12]}) from data "
            f"{provenance.data_fingerprint}, commit {provenance.commit}, {provenance.created}",
        ]
    )


def _variants(speeds: Sequence[Speed], threads: int) -> str:
    header = ["file", "precision", "target", "size", *(f"{n} x {TOKENS} tokens" for n in BATCHES)]
    rows = []
    for speed in speeds:
        variant = speed.variant
        taken = [
            "not on this machine"
            if speed.milliseconds is None
            else f"{speed.milliseconds[n]:.1f} ms"
            for n in BATCHES
        ]
        size = f"{variant.bytes / 1e6:.1f} MB"
        rows.append([variant.file, variant.precision, variant.target, size, *taken])
    return (
        f"{markdown(header, rows)}\n\nMedian time of one forward pass, {threads} threads, "
        f"{cpu_name()}."
    )


def _tasks(manifest: Manifest) -> str:
    lines = ["- `embed`: always"]
    for name, task in manifest.tasks.items():
        kind = "of pairs, " if task.pair else ""
        kind += "several at once, " if task.problem_type == "multi" else ""
        lines.append(f"- `{name}`: {kind}{', '.join(task.labels)}")
    return "\n".join(lines)


def _data(data: Sequence[DataTable]) -> str:
    return markdown(
        ["data", "licence", "source"], [[each.name, each.license, each.source] for each in data]
    )


def _told(table: EvaluateTable) -> list[str]:
    return [f"- {weakness}" for weakness in table.weaknesses]


def _weakest(evaluation: Evaluation, table: EvaluateTable) -> list[str]:
    """The three lowest languages of each benchmark, as the last system measured scores them."""
    system = evaluation.systems[-1]
    lines = []
    for benchmark in evaluation.benchmarks:
        missed = [item for item in system.scores(benchmark).items() if item[1] < 1]
        lowest = sorted(missed, key=lambda item: item[1])[:3]
        listed = ", ".join(f"{language} {score:.3f}" for language, score in lowest)
        if listed:
            lines.append(f"- Lowest ({system.name}): {listed} ({meaning(benchmark, table)})")
    return lines


def _scores(evaluation: Evaluation, table: EvaluateTable) -> str:
    names = ", ".join(f"`{system.name}`" for system in evaluation.systems)
    return f"Split `{table.split}` of each set. Systems: {names}.\n\n{tables(evaluation, table)}"
