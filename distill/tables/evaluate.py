"""What to measure, on what, and where the report goes."""

from pathlib import Path

from pydantic import PositiveInt, model_validator

from distill.tables.table import Table


class EvaluateTable(Table):
    """What to measure, on what, and where the report goes."""

    model_dir: Path
    """Model folder; each of its variants that runs on a CPU is measured, as it would be served."""
    encoders: dict[str, str]
    """Name -> encoder folder or hub id, such as the teacher: measured through torch."""
    teacher: str
    """Which of the encoders retention is measured against."""
    languages: tuple[str, ...]
    source_language: str
    """The language the heads were trained on."""
    split: str
    topic: Path
    sentiment: Path
    tatoeba: Path
    sts: Path
    max_sts_pairs: PositiveInt
    """Per language, the first ones of its split."""
    max_tokens: PositiveInt
    description: str
    """First paragraph of the card."""
    weaknesses: tuple[str, ...]
    """Said plainly in the card."""
    report: Path
    """Folder of evaluation.json and evaluation.md."""

    @model_validator(mode="after")
    def _teacher_is_measured(self) -> "EvaluateTable":
        if self.teacher not in self.encoders:
            known = ", ".join(self.encoders) or "none"
            raise ValueError(f"teacher {self.teacher!r} is not among the encoders: {known}")
        return self
