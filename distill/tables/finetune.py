"""Heads to add to encoders."""

from pathlib import Path

from pydantic import PositiveFloat, PositiveInt

from app.runtime.artifact import TaskName
from distill.tables.table import Table
from distill.tables.text import LabelledTable


class HeadTable(Table):
    """One classification head, trained on the frozen encoder's unit embeddings."""

    task: TaskName
    data: LabelledTable
    inverse_regularization: PositiveFloat
    """scikit-learn's C: larger trusts the data more."""


class FinetuneTable(Table):
    """Heads to add to encoder folders."""

    encoders: tuple[Path, ...]
    heads: tuple[HeadTable, ...]
    max_tokens: PositiveInt
