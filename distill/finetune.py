"""Verb: teach encoders a classification task, as the recipe's `[finetune]` table says.

    lightmbert distill finetune distill/recipes/mini-5-settle.toml

`method = "frozen"` adds heads to encoder folders: the encoder stays as it is, so one forward
pass serves all of them. `method = "full"` trains encoder and head together; what comes out
serves that task alone, and becomes an encoder folder of its own. Task KD is an option of it,
and is then held against plain fine-tuning language by language.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import orjson
import torch
from rich.console import Console
from threadpoolctl import threadpool_limits

from distill.comparison import Scores, mean_scores, summary_of
from distill.config import LoadedRecipe, require
from distill.encoders import TorchEncoder, check_encoder
from distill.heads import AnyHead, save_head
from distill.labelled import Labelled
from distill.lexical import fit_lexical, read_texts
from distill.logistic import fit_head
from distill.reliability import Reliability
from distill.tables.finetune import FrozenTable, FullTable
from distill.tables.run import RunTable
from distill.task_kd import SOURCE_ONLY, TaskTeacher, of_source_only, verdict
from distill.task_rows import TaskRows, read_languages, read_task, scores_of
from distill.teaching import Taught, load_pupil, load_task_teacher, provenance_of, teach

PLAIN, TASK_KD = "plain", "task-kd"


def run(loaded: LoadedRecipe) -> None:
    """Add heads to encoder folders, or write fine-tuned ones."""
    table, run_table = require(loaded.recipe.finetune, "finetune"), loaded.recipe.run
    torch.set_num_threads(run_table.threads)
    if isinstance(table, FullTable):
        _fine_tune(table, run_table, recipe_sha256=loaded.sha256)
    elif isinstance(table, FrozenTable):
        _fit_heads(table, run_table)


def _fit_heads(table: FrozenTable, run_table: RunTable) -> None:
    # scikit-learn's threads spin while they wait: 25 times the work on a busy machine
    with threadpool_limits(run_table.threads):
        # first, for an encoder with another tokenizer's lexical head would not load
        _fit_lexical(table, seed=run_table.seed)
        _fit_linear(table, seed=run_table.seed)


def _fit_linear(table: FrozenTable, *, seed: int) -> None:
    for folder in table.encoders if table.heads else ():
        encoder = TorchEncoder(folder, max_tokens=table.max_tokens)
        for head_table in table.heads:
            fitted = fit_head(encoder, head_table, seed=seed)
            _keep(
                folder,
                fitted.head,
                fitted.reliability,
                f"{fitted.accuracy:.3f} accuracy in cross-validation",
            )


def _fit_lexical(table: FrozenTable, *, seed: int) -> None:
    for lexical_table in table.lexical:
        texts = read_texts(lexical_table, seed=seed)
        for folder in table.encoders:
            fitted = fit_lexical(folder, lexical_table, texts, max_tokens=table.max_tokens)
            _keep(
                folder,
                fitted.head,
                fitted.reliability,
                f"{fitted.accuracy:.4f} accuracy on held-out texts",
            )


def _keep(folder: Path, head: AnyHead, found: Reliability, accuracy: str) -> None:
    save_head(folder, head)
    Console().print(
        f"{folder} {head.task}: {accuracy}; temperature {found.temperature:.2f}, calibration error "
        f"{found.ece_before:.3f} -> {found.ece_after:.3f}",
        soft_wrap=True,
    )


def _fine_tune(table: FullTable, run_table: RunTable, *, recipe_sha256: str) -> None:
    console = Console()
    task = read_task(table.data, table.development, problem=table.problem, seed=run_table.seed)
    measured = read_languages(table.measured, table.languages, task) if table.measured else {}
    for folder in table.encoders.values():
        check_encoder(folder, max_tokens=table.max_tokens)
    teacher = _task_teacher(table, task)
    if table.task_kd is not None and of_source_only(table.task_kd, table.source_language):
        console.print(f"[bold yellow]warning:[/] {SOURCE_ONLY}", soft_wrap=True)
    told: list[dict[str, object]] = []
    scores: dict[str, dict[str, list[Scores]]] = {}
    for name, folder in table.encoders.items():
        for way in (PLAIN, *([TASK_KD] if table.task_kd else [])):
            for seed in table.seeds:
                learned_from = teacher if way == TASK_KD else None
                taught = _taught(table, task, folder, seed=seed, teacher=learned_from)
                target = run_table.folder / f"{name}-{way}-{seed}"
                by_language = _measured(taught, task, measured)
                taught.save(target, provenance_of(folder, task))
                scores.setdefault(name, {}).setdefault(way, []).append(by_language)
                told.append(_told(name, way, seed, taught, by_language))
                _report(run_table.folder, table.task, told, recipe_sha256=recipe_sha256)
                console.print(_line(target, taught), soft_wrap=True)
        if table.task_kd is not None:
            _compare(console, name, scores[name], table.source_language)


def _task_teacher(table: FullTable, task: TaskRows) -> TaskTeacher | None:
    if table.task_kd is None:
        return None
    return load_task_teacher(
        table.task_kd.teacher, task=table.task, labels=task.labels, max_tokens=table.max_tokens
    )


def _taught(
    table: FullTable, task: TaskRows, folder: Path, *, seed: int, teacher: TaskTeacher | None
) -> Taught:
    return teach(
        load_pupil(folder, max_tokens=table.max_tokens),
        task,
        table,
        name=table.task,
        seed=seed,
        contrast=table.contrast,
        task_kd=None if teacher is None else table.task_kd,
        teacher=teacher,
    )


def _measured(taught: Taught, task: TaskRows, measured: Mapping[str, Labelled]) -> Scores:
    return scores_of(
        {language: taught.logits(rows.texts) for language, rows in measured.items()},
        measured,
        task.labels,
        task.problem,
        temperature=taught.reliability.temperature,
        threshold=taught.reliability.threshold,
    )


def _report(folder: Path, task: str, told: list[dict[str, object]], *, recipe_sha256: str) -> None:
    """What is known so far: a run that ends early keeps the scores of what it wrote."""
    report = {"recipe_sha256": recipe_sha256, "task": task, "runs": told}
    (folder / "finetune.json").write_bytes(
        orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )


def _told(name: str, way: str, seed: int, taught: Taught, by_language: Scores) -> dict[str, object]:
    return {
        "encoder": name,
        "way": way,
        "seed": seed,
        "epochs": [asdict(epoch) for epoch in taught.fitted.epochs],
        "best_epoch": taught.fitted.best.number,
        "reliability": asdict(taught.reliability),
        "scores": by_language,
    }


def _line(target: Path, taught: Taught) -> str:
    best, found = taught.fitted.best, taught.reliability
    return (
        f"{target}: {best.score:.3f} on the development rows, epoch {best.number} of "
        f"{len(taught.fitted.epochs)}; temperature {found.temperature:.2f}, calibration error "
        f"{found.ece_before:.3f} -> {found.ece_after:.3f} of {found.rows} rows"
    )


def _compare(
    console: Console, name: str, ways: Mapping[str, list[Scores]], source_language: str
) -> None:
    """Print what task KD changed against plain fine-tuning, language by language."""
    plain, distilled = mean_scores(ways[PLAIN]), mean_scores(ways[TASK_KD])
    changes = ", ".join(f"{lang} {distilled[lang] - plain[lang]:+.3f}" for lang in plain)
    console.print(f"{name}, task KD against plain fine-tuning: {changes}", soft_wrap=True)
    console.print(
        verdict(summary_of(plain, source_language), summary_of(distilled, source_language)),
        soft_wrap=True,
    )
