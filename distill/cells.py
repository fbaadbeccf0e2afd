"""Cells of the KD-timing study: each is one fine-tuning, and one JSON file once it is done.

A cell's file holds which rows of each language it got right, so that two cells can be compared
row by row. It is written last: a study that was killed goes on with the cells that lack a file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from distill.anatomy import Anatomy, anatomy
from distill.batches import load_tokenizer
from distill.encoders import check_encoder
from distill.labelled import Labelled
from distill.student import student_of
from distill.study_inputs import StudyError, check_inputs, inputs_of
from distill.tables.finetune import TaskKdTable
from distill.tables.study import StudyTable, StudyTaskTable, StudyTeacherTable
from distill.task_rows import TaskRows, hits, read_languages, read_task
from distill.teacher import load_skeleton, tokenizer_file
from distill.teaching import (
    Pupil,
    Taught,
    load_pupil,
    load_task_teacher,
    provenance_of,
    teach,
)

Arm = Literal["teacher", "none", "pre-training", "fine-tuning", "both"]
ARMS: tuple[Arm, ...] = ("none", "pre-training", "fine-tuning", "both")


@dataclass(frozen=True)
class Cell:
    """One fine-tuning of the matrix."""

    teacher: StudyTeacherTable
    task: StudyTaskTable
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.teacher.name}.{self.task.name}.{self.arm}.{self.seed}"


class CellResult(BaseModel):
    """What a cell's file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe_sha256: str
    development_score: float
    best_epoch: int
    temperature: float
    hits: dict[str, str]
    """Language -> a 1 for every row that was right, a 0 for the others."""


def cells(table: StudyTable) -> Iterator[Cell]:
    """Every cell; a teacher before the students that learn from it."""
    for teacher in table.teachers:
        for task in table.tasks:
            for seed in table.seeds:
                yield Cell(teacher, task, "teacher", seed)
                for arm in ARMS:
                    yield Cell(teacher, task, arm, seed)


class Study:
    """Runs cells, or reads what they left."""

    def __init__(self, table: StudyTable, folder: Path, *, sha256: str, seed: int) -> None:
        self._table, self._folder, self._sha256, self._seed = table, folder, sha256, seed
        self._rows: dict[str, TaskRows] = {}
        self._measured: dict[str, Mapping[str, Labelled]] = {}
        for teacher in table.teachers:
            check_shapes(teacher, max_tokens=table.max_tokens)
        for task in table.tasks:
            self._read(task)
        check_inputs(folder, inputs_of(table.teachers, self._rows, self._measured))

    def done(self, cell: Cell) -> CellResult | None:
        """What the cell left; None where it has not been run.

        Raises:
            StudyError: its file is damaged, or another recipe's.
        """
        path = self._path(cell)
        if not path.exists():
            return None
        try:
            found = CellResult.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise StudyError(f"{path} is not a cell: {error}") from error
        if found.recipe_sha256 != self._sha256:
            raise StudyError(
                f"{path} was written by another recipe (sha256 {found.recipe_sha256[:12]}, this "
                f"one {self._sha256[:12]}); remove {self._folder} or name another run folder"
            )
        return found

    def run(self, cell: Cell) -> CellResult:
        """Fine-tune, measure, write the cell's file."""
        taught = self._teach(cell)
        if cell.arm == "teacher":
            rows = self._rows[cell.task.name]
            taught.save(self._teacher_folder(cell), provenance_of(cell.teacher.encoder, rows))
        result = CellResult(
            recipe_sha256=self._sha256,
            development_score=taught.fitted.best.score,
            best_epoch=taught.fitted.best.number,
            temperature=taught.reliability.temperature,
            hits=self._hits(cell, taught),
        )
        path = self._path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        return result

    def _teach(self, cell: Cell) -> Taught:
        table, rows = self._table, self._rows[cell.task.name]
        is_teacher = cell.arm == "teacher"
        task_kd: TaskKdTable | None = None
        teacher = None
        if cell.arm in ("fine-tuning", "both"):
            task_kd = table.task_kd
            teacher = load_task_teacher(
                self._teacher_folder(cell),
                task=cell.task.name,
                labels=rows.labels,
                max_tokens=table.max_tokens,
            )
        return teach(
            self._pupil(cell),
            rows,
            table.teacher_schedule if is_teacher else table.schedule,
            name=cell.task.name,
            seed=cell.seed,
            task_kd=task_kd,
            teacher=teacher,
        )

    def _pupil(self, cell: Cell) -> Pupil:
        limit = self._table.max_tokens
        if cell.arm == "teacher":
            return load_pupil(cell.teacher.encoder, max_tokens=limit)
        if cell.arm in ("pre-training", "both"):
            return load_pupil(cell.teacher.distilled, max_tokens=limit)
        return plain_student(cell.teacher, max_tokens=limit, seed=cell.seed)

    def _hits(self, cell: Cell, taught: Taught) -> dict[str, str]:
        found = {}
        for language, rows in self._measured[cell.task.name].items():
            right = hits(taught.logits(rows.texts), rows.targets(taught.head.labels))
            found[language] = "".join("01"[int(value)] for value in right)
        return found

    def _read(self, task: StudyTaskTable) -> None:
        """Before anything trains, so that what is missing is said at once."""
        rows = read_task(task.train, task.development, problem="single", seed=self._seed)
        self._rows[task.name] = rows
        self._measured[task.name] = read_languages(task.measured, self._table.languages, rows)

    def _path(self, cell: Cell) -> Path:
        return self._folder / "cells" / f"{cell.name}.json"

    def _teacher_folder(self, cell: Cell) -> Path:
        return self._folder / "teachers" / f"{cell.teacher.name}.{cell.task.name}.{cell.seed}"


def plain_student(teacher: StudyTeacherTable, *, max_tokens: int, seed: int) -> Pupil:
    """The student without pre-training KD; what is random of it differs by seed."""
    if isinstance(teacher.plain, Path):
        return load_pupil(teacher.plain, max_tokens=max_tokens)
    torch.manual_seed(seed)
    file = tokenizer_file(str(teacher.encoder))
    # what stays frozen is the schedule's affair, which is one for all students
    student = student_of(str(teacher.encoder), teacher.plain).requires_grad_(True)
    return Pupil(student, load_tokenizer(file, max_tokens=max_tokens), file)


def check_shapes(teacher: StudyTeacherTable, *, max_tokens: int) -> None:
    """Refuse students that differ in more than how they began; reads no weights.

    Raises:
        EncoderError: an encoder cannot be taught with texts of that length.
        StudyError: their measures differ.
    """
    plain_folder = (teacher.plain,) if isinstance(teacher.plain, Path) else ()
    for folder in (teacher.encoder, teacher.distilled, *plain_folder):
        check_encoder(folder, max_tokens=max_tokens)
    distilled = anatomy(load_skeleton(str(teacher.distilled)))
    if isinstance(teacher.plain, Path):
        plain = anatomy(load_skeleton(str(teacher.plain)))
    else:
        plain = anatomy(student_of(str(teacher.encoder), teacher.plain, skeleton=True))
    measures = _measures(plain)
    for what, one in _measures(distilled).items():
        if one != (other := measures[what]):
            raise StudyError(
                f"{teacher.name}: the student with pre-training KD has {what} {one}, the one "
                f"without {other}; the study compares students of one shape"
            )


def _measures(parts: Anatomy) -> dict[str, int]:
    weights = (weight for layer in parts.layers for weight in layer.parameters())
    return {
        "depth": parts.depth,
        "width": parts.width,
        "heads": parts.heads,
        "vocabulary": parts.vocabulary,
        "parameters in its layers": sum(weight.numel() for weight in weights),
    }
