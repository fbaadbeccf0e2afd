"""One training run: teacher, student, objective, text and schedule."""

from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from distill.tables.objectives import Objectives
from distill.tables.student import StudentTable
from distill.tables.table import Share, Table
from distill.tables.text import Corpora


class WatchTable(Table):
    """When to give a run up because its loss does not fall."""

    window_steps: PositiveInt
    """The mean loss of the first so many steps is compared with that of the last so many."""
    from_step: PositiveInt
    """First step that is looked at; before it the learning rate may still be rising."""
    max_ratio: PositiveFloat
    """Last mean over first mean; above it the run stops."""


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
    """Padded tokens that one process runs at a time."""
    accumulation_steps: PositiveInt = 1
    """Batches whose gradients make one step, in each process."""
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
    watch: WatchTable | None = None
    tensorboard: bool = False
    """Write what is recorded for TensorBoard as well."""
    cache_targets: Path | None = None
    """Folder of teacher embeddings, for objectives that look at nothing else of the teacher; on a
    disk of the machine itself, because sqlite's locks do not reach over a network."""

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

    @model_validator(mode="after")
    def _watch_sees_records(self) -> "TrainTable":
        watch = self.watch
        if watch is None:
            return self
        if watch.window_steps < self.record_every_steps:
            raise ValueError(
                f"watch.window_steps {watch.window_steps} must hold a record, which comes every "
                f"{self.record_every_steps} steps"
            )
        if not 2 * watch.window_steps <= watch.from_step <= self.steps:
            raise ValueError(
                f"watch.from_step {watch.from_step} must lie between two windows "
                f"({2 * watch.window_steps} steps) and steps {self.steps}"
            )
        return self
