"""Verb: when to distil, at pre-training, at fine-tuning, at both or not at all.

    lightmbert distill study distill/recipes/kd-timing.toml

Runs the matrix of Soltan et al. (SustaiNLP 2021) at the recipe's scale: each teacher is
fine-tuned, and then students of one shape with and without either kind of KD, on text of the
source language; every language is measured. Started again, it goes on with the cells that are
not done. Leaves study.md and study.json in the run's folder.
"""

from pathlib import Path

import orjson
import torch
from rich.console import Console

from distill.cells import CellResult, Study, cells
from distill.comparison import summary_of
from distill.config import LoadedRecipe, require
from distill.study_report import COLUMNS, Matrix, matrix_json, matrix_markdown
from distill.tables.study import StudyTable
from distill.task_kd import SOURCE_ONLY, of_source_only


def run(loaded: LoadedRecipe) -> None:
    """Run the cells that are not done, and write the tables."""
    table, run_table = require(loaded.recipe.study, "study"), loaded.recipe.run
    torch.set_num_threads(run_table.threads)
    console = Console()
    if of_source_only(table.task_kd, table.source_language):
        console.print(f"[bold yellow]warning:[/] {SOURCE_ONLY}", soft_wrap=True)
    study = Study(table, run_table.folder, sha256=loaded.sha256, seed=run_table.seed)
    results: dict[str, CellResult] = {}
    for cell in cells(table):
        found = study.done(cell)
        results[cell.name] = found or study.run(cell)
        console.print(
            _line(cell.name, results[cell.name], table, again=found is not None), soft_wrap=True
        )
    matrices = _matrices(table, results)
    _write(run_table.folder, matrices, title=run_table.name)
    console.print((run_table.folder / "study.md").read_text(encoding="utf-8"), soft_wrap=True)


def _line(name: str, result: CellResult, table: StudyTable, *, again: bool) -> str:
    scores = {lang: right.count("1") / len(right) for lang, right in result.hits.items()}
    summary = summary_of(scores, table.source_language)
    done = " (done before)" if again else ""
    return f"{name}: source {summary.source:.3f}, mean of the others {summary.others:.3f}{done}"


def _matrices(table: StudyTable, results: dict[str, CellResult]) -> list[Matrix]:
    return [
        Matrix(
            teacher.name,
            task.name,
            table.source_language,
            {
                arm: [results[f"{teacher.name}.{task.name}.{arm}.{seed}"] for seed in table.seeds]
                for arm in COLUMNS
            },
        )
        for teacher in table.teachers
        for task in table.tasks
    ]


def _write(folder: Path, matrices: list[Matrix], *, title: str) -> None:
    text = "\n\n".join([f"# {title}", *map(matrix_markdown, matrices)]) + "\n"
    (folder / "study.md").write_text(text, encoding="utf-8")
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    content = orjson.dumps([matrix_json(matrix) for matrix in matrices], option=options)
    (folder / "study.json").write_bytes(content)
