"""When to distil: the matrix of pre-training KD and fine-tuning KD."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from app.runtime.artifact import Name, TaskName
from distill.tables.finetune import HeldOutTable, ScheduleTable, TaskKdTable
from distill.tables.labelled import LabelledFolder, LabelledRows, LabelledTable, check_sides
from distill.tables.student import StudentTable
from distill.tables.table import Table


class StudyTeacherTable(Table):
    """A teacher, and the two students that are compared."""

    name: Name
    encoder: Path
    """Is fine-tuned for each task and seed; then task KD learns from it."""
    distilled: Path
    """The student with pre-training KD: what a `train` recipe made from this teacher."""
    plain: StudentTable | Path
    """The student without: made anew from the teacher, bottom layers or random, or a folder of
    the same shape, such as one trained without a teacher."""


class StudyTaskTable(Table):
    """A classification task of one label, learned in the source language."""

    name: TaskName
    train: LabelledTable
    development: LabelledTable | HeldOutTable
    """What the best epoch is chosen by; not the rows that are measured."""
    measured: LabelledFolder

    @model_validator(mode="after")
    def _rows_are_alike(self) -> "StudyTaskTable":
        rows = (self.train, self.development, self.measured)
        check_sides(*(table for table in rows if isinstance(table, LabelledRows)))
        return self


class StudyTable(Table):
    """{none, pre-training KD, fine-tuning KD, both} x teachers x tasks x seeds, by language."""

    teachers: Annotated[tuple[StudyTeacherTable, ...], Field(min_length=1)]
    tasks: Annotated[tuple[StudyTaskTable, ...], Field(min_length=1)]
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    source_language: str
    languages: tuple[str, ...]
    max_tokens: PositiveInt
    teacher_schedule: ScheduleTable
    schedule: ScheduleTable
    """Of the students, the same for all of them."""
    task_kd: TaskKdTable

    @model_validator(mode="after")
    def _names_differ(self) -> "StudyTable":
        for what, names in (
            ("teachers", [teacher.name for teacher in self.teachers]),
            ("tasks", [task.name for task in self.tasks]),
            ("seeds", [str(seed) for seed in self.seeds]),
        ):
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"two {what} are called {min(twice)!r}")
        return self

    @model_validator(mode="after")
    def _unlabelled_fits_the_tasks(self) -> "StudyTable":
        pairs = [task.name for task in self.tasks if task.train.pair_column is not None]
        if self.task_kd.unlabelled is not None and pairs:
            raise ValueError(f"task_kd.unlabelled is of single texts; {pairs[0]!r} is of pairs")
        return self

    @model_validator(mode="after")
    def _transfer_is_measured(self) -> "StudyTable":
        if self.source_language not in self.languages or len(self.languages) < 2:
            raise ValueError(
                f"languages {self.languages} must have source_language "
                f"{self.source_language!r} and others"
            )
        return self
