"""One training run: teacher, student, objective, text and schedule."""

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from distill.tables.objectives import Objectives
from distill.tables.table import Share, Table
from distill.tables.text import Corpora


class StudentTable(Table):
    """How the student starts and what of it stays as it was."""

    layers: PositiveInt
    freeze_embeddings: bool


class TrainTable(Table):
    """One training run: teacher, student, objective, text and schedule."""

    teacher: str
    """Hub id or local folder."""
    student: StudentTable
    start: str
    """Encoder whose bottom layers the student copies: hub id or local folder."""
    objective: Objectives
    corpus: Corpora
    exponent: Share
    """Languages, and groups within them, are drawn with probability ~ rows ** exponent."""
    max_tokens: PositiveInt
    max_batch_tokens: PositiveInt
    steps: PositiveInt
    warmup_steps: NonNegativeInt
    decay_steps: PositiveInt | None = None
    """Last steps, over which the rate falls to 0; all after the warm-up if not given."""
    learning_rate: PositiveFloat
    embedding_learning_rate: NonNegativeFloat
    weight_decay: NonNegativeFloat
    max_gradient_norm: PositiveFloat
    precision: Literal["fp32", "bf16"]
    compile: bool
    checkpoint_every_steps: PositiveInt
    record_every_steps: PositiveInt

    @model_validator(mode="after")
    def _warmup_ends(self) -> "TrainTable":
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}")
        if self.decay_steps is not None and self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and decay_steps {self.decay_steps} "
                f"must fit into steps {self.steps}"
            )
        return self
