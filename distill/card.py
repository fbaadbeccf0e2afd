"""The model card of a folder: what the student is, how good per language, and what it is bad at."""

from app.runtime.artifact import Manifest
from distill.benchmarks import Scores
from distill.tables.evaluate import EvaluateTable

Evaluation = dict[str, dict[str, Scores]]
"""Encoder name -> benchmark -> language -> score."""

MEANING = {
    "topic": "SIB-200 topic, accuracy; the head saw {source} only",
    "sentiment": "UMSAB sentiment, macro-F1; the head saw {source} only",
    "tatoeba_to_english": "Tatoeba, accuracy@1 of finding the English translation",
    "tatoeba_from_english": "Tatoeba, accuracy@1 of finding the translation of the English",
    "tatoeba_closer": "Tatoeba, share of sentences nearer to their translation than to another "
    "sentence of their own language",
    "sts": "STS-B, Spearman correlation with human similarity",
}


def summary(evaluation: Evaluation, benchmark: str, table: EvaluateTable) -> list[tuple[str, ...]]:
    """Rows of a benchmark's table: each language, then mean and worst of the others, retention.

    The others are all but the language the heads were trained on. Retention is the mean of the
    others divided by the teacher's.
    """
    measured = {name: scores.get(benchmark, {}) for name, scores in evaluation.items()}
    rows = [
        (language, *(_cell(scores.get(language)) for scores in measured.values()))
        for language in table.languages
        if any(language in scores for scores in measured.values())
    ]
    others = {
        name: [score for language, score in scores.items() if language != table.source_language]
        for name, scores in measured.items()
    }
    means = {name: sum(s) / len(s) if s else None for name, s in others.items()}
    teacher = means.get(table.teacher)
    rows.append(("mean of the others", *(_cell(mean) for mean in means.values())))
    rows.append(("worst of the others", *(_cell(min(s, default=None)) for s in others.values())))
    retained = [mean / teacher if mean is not None and teacher else None for mean in means.values()]
    rows.append((f"retention of {table.teacher}", *(_cell(share) for share in retained)))
    return rows


def _cell(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def tables(evaluation: Evaluation, table: EvaluateTable) -> str:
    """Markdown: one table per benchmark, a column per encoder."""
    blocks = []
    for benchmark in dict.fromkeys(b for scores in evaluation.values() for b in scores):
        meaning = MEANING[benchmark].format(source=table.source_language)
        header = ["language", *evaluation]
        lines = [f"### {meaning}", "", _line(header), _line(["---"] * len(header))]
        lines += [_line(row) for row in summary(evaluation, benchmark, table)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _weakest(evaluation: Evaluation, table: EvaluateTable) -> list[str]:
    """The three lowest languages of each benchmark, as the last encoder measured scores them."""
    name, scores = list(evaluation.items())[-1]
    lines = []
    for benchmark, by_language in scores.items():
        lowest = sorted(by_language.items(), key=lambda item: item[1])[:3]
        listed = ", ".join(f"{language} {score:.3f}" for language, score in lowest)
        meaning = MEANING[benchmark].format(source=table.source_language)
        lines.append(f"- Lowest ({name}): {listed} ({meaning})")
    return lines


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def card(manifest: Manifest, evaluation: Evaluation, table: EvaluateTable) -> str:
    """CARD.md: identity, variants, tasks, provenance, weaknesses, scores."""
    variants = [
        _line([v.file, v.precision, v.target, f"{v.bytes / 1e6:.1f} MB"]) for v in manifest.variants
    ]
    tasks = [f"- `{task}`: {', '.join(entry.labels)}" for task, entry in manifest.tasks.items()]
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
            "",
            "## Variants",
            "",
            _line(["file", "precision", "target", "size"]),
            _line(["---"] * 4),
            *variants,
            "",
            "## Tasks",
            "",
            "- `embed`: always",
            *tasks,
            "",
            "## What it is weak at",
            "",
            *(f"- {weakness}" for weakness in table.weaknesses),
            *_weakest(evaluation, table),
            "",
            "## Scores",
            "",
            f"Split `{table.split}` of each set. Encoders: "
            + ", ".join(f"`{name}`" for name in evaluation)
            + ".",
            "",
            tables(evaluation, table),
        ]
    )
