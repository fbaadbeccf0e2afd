"""Teach encoders a classification task: heads on a frozen one, or the whole of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from app.runtime.artifact import Name, TaskName
from distill.tables.labelled import LabelledFolder, LabelledRows, LabelledTable, check_sides
from distill.tables.table import Share, Table
from distill.tables.text import Corpora


class HeadTable(Table):
    """One classification head, trained on the frozen encoder's unit embeddings."""

    task: TaskName
    data: LabelledTable
    inverse_regularization: PositiveFloat
    """scikit-learn's C: larger trusts the data more."""


class LexicalTable(Table):
    """One head on the pieces of texts, whose label is the language that their file is of."""

    task: TaskName
    corpus: Corpora
    languages: Annotated[tuple[str, ...], Field(min_length=2)]
    """The labels; of these a text must be."""
    texts_per_language: PositiveInt
    """At most so many are read, held-out ones among them."""
    held_out_per_language: PositiveInt
    """So many of them tell accuracy and temperature, and are not learned from."""
    smoothing: PositiveFloat
    """Times that every piece is taken to have been seen in each language beforehand."""


class FrozenTable(Table):
    """Heads to add to encoder folders, which stay as they are and share one forward pass."""

    method: Literal["frozen"]
    encoders: Annotated[tuple[Path, ...], Field(min_length=1)]
    heads: tuple[HeadTable, ...] = ()
    lexical: tuple[LexicalTable, ...] = ()
    max_tokens: PositiveInt

    @model_validator(mode="after")
    def _heads_are_told_apart(self) -> "FrozenTable":
        tasks = [*(head.task for head in self.heads), *(head.task for head in self.lexical)]
        if not tasks:
            raise ValueError("no head is asked for: neither heads nor lexical")
        if twice := {task for task in tasks if tasks.count(task) > 1}:
            raise ValueError(f"two heads are called {min(twice)!r}")
        return self


class HeldOutTable(Table):
    """Development rows taken out of the training rows, by the run's seed."""

    share: Annotated[float, Field(gt=0, lt=1)]


class DropTable(Table):
    """What is left out at random while an encoder is fine-tuned; 0 leaves out nothing.

    Nothing else is: the dropout of an encoder's own config is off.
    """

    layer_drop: Share
    """Probability with which a layer is skipped (LayerDrop)."""
    feature_drop: Share
    """Dropout of attention weights, activations, projections and logits (UniDrop)."""
    data_drop: Share
    """Share of tokens deleted from a text (UniDrop)."""
    keep_whole: Share
    """Probability with which a text stays whole in spite of it."""
    r_drop_weight: NonNegativeFloat
    """Weight of the divergence between two passes over the same texts (R-Drop)."""

    @model_validator(mode="after")
    def _passes_differ(self) -> "DropTable":
        if self.r_drop_weight and not (self.layer_drop or self.feature_drop or self.data_drop):
            raise ValueError(
                f"r_drop_weight {self.r_drop_weight} compares two passes that drop differently; "
                "layer_drop, feature_drop and data_drop are all 0"
            )
        return self


class ScheduleTable(Table):
    """How long an encoder is fine-tuned, and how fast."""

    epochs: PositiveInt
    batch_texts: PositiveInt
    learning_rate: NonNegativeFloat
    """Peak rate of the encoder: linear from 0, then linearly to 0."""
    head_learning_rate: PositiveFloat
    """Peak rate of the head. It starts at random and reads unit vectors: larger than the other."""
    warmup_share: Share
    """Of all steps."""
    weight_decay: NonNegativeFloat
    max_gradient_norm: PositiveFloat
    freeze_embeddings: bool
    """Keep the embedding block, which aligns the languages, as it was."""
    precision: Literal["fp32", "bf16"]
    drop: DropTable | None = None


class TaskKdTable(Table):
    """Learn from a fine-tuned teacher's logits as well.

    On text of the source language alone this was found to hurt the other languages (Soltan et
    al. 2021, SustaiNLP): such a run warns, and every run is told apart from plain fine-tuning.
    """

    divergence: Literal["kl", "js"]
    temperature: PositiveFloat
    hard_weight: NonNegativeFloat
    """Weight of the labels themselves."""
    soft_weight: NonNegativeFloat
    """Weight of the teacher's logits on labelled text."""
    unlabelled_weight: NonNegativeFloat = 0
    """Weight of the teacher's logits on unlabelled text."""
    unlabelled: Corpora | None = None
    """Text without labels, best of the target languages."""
    unlabelled_batch_texts: PositiveInt | None = None
    exponent: Share = 0
    """Languages of unlabelled text are drawn with probability ~ rows ** exponent."""

    @model_validator(mode="after")
    def _unlabelled_counts(self) -> "TaskKdTable":
        given = self.unlabelled is not None
        if given != (self.unlabelled_weight > 0) or given != (
            self.unlabelled_batch_texts is not None
        ):
            raise ValueError("unlabelled, unlabelled_weight and unlabelled_batch_texts go together")
        if not given and not self.soft_weight:
            raise ValueError("nothing is learned from the teacher: soft_weight is 0")
        return self


class TeacherTable(TaskKdTable):
    """Task KD in a recipe of its own: against which teacher."""

    teacher: Path
    """An encoder folder with a head of the same task: fine-tuned before, by this verb."""


class ContrastTable(Table):
    """A first stage that teaches the encoder alone, by contrast (a sentence head's)."""

    kind: Literal["pairsupcon", "supcl"]
    epochs: PositiveInt
    batch_texts: PositiveInt
    learning_rate: PositiveFloat
    temperature: PositiveFloat
    drops: tuple[Share, ...] = ()
    """supcl: the dropout of each view, as 0.1, 0.0, 0.05 and 0.2. The paper then keeps the encoder
    as it is: learning_rate 0."""
    positive: str | None = None
    """pairsupcon: the label of pairs that mean the same, as entailment."""
    negative: str | None = None
    """pairsupcon: the label of pairs that do not, as contradiction."""
    instance_weight: NonNegativeFloat = 1.0
    """pairsupcon: weight of telling instances apart beside telling labels apart."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "ContrastTable":
        if self.kind == "supcl" and len(self.drops) < 2:
            raise ValueError(f"supcl compares views of several dropouts: drops is {self.drops}")
        if self.kind == "pairsupcon" and (self.positive is None or self.negative is None):
            raise ValueError("pairsupcon needs the labels positive and negative")
        return self


class FullTable(ScheduleTable):
    """Fine-tune whole encoders for one task; each becomes an encoder folder of its own.

    The best epoch on the development rows is kept. They are of the source language, and so is
    what temperature and threshold are fitted on.
    """

    method: Literal["full"]
    encoders: Annotated[Mapping[Name, Path], Field(min_length=1)]
    """Name -> encoder folder. FOLDER/NAME-plain-SEED and, with task KD, FOLDER/NAME-task-kd-SEED
    are written, FOLDER being the run's."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    task: TaskName
    problem: Literal["single", "multi"]
    data: LabelledTable
    development: LabelledTable | HeldOutTable
    max_tokens: PositiveInt
    source_language: str
    measured: LabelledFolder | None = None
    """Labelled text of every language to be measured after training."""
    languages: tuple[str, ...] = ()
    """Those to be measured; the source language among them."""
    contrast: ContrastTable | None = None
    task_kd: TeacherTable | None = None

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> "FullTable":
        if self.task_kd is not None and self.measured is None:
            raise ValueError(
                "task_kd is told per language against plain fine-tuning: measured is missing"
            )
        if self.measured is not None and self.source_language not in self.languages:
            raise ValueError(
                f"source_language {self.source_language!r} is not among languages {self.languages}"
            )
        return self

    @model_validator(mode="after")
    def _rows_are_alike(self) -> "FullTable":
        rows = (self.data, self.development, self.measured)
        check_sides(*(table for table in rows if isinstance(table, LabelledRows)))
        unlabelled = self.task_kd is not None and self.task_kd.unlabelled is not None
        if unlabelled and self.data.pair_column is not None:
            raise ValueError("task_kd.unlabelled is of single texts; data has a pair_column")
        return self

    @model_validator(mode="after")
    def _contrast_fits_the_rows(self) -> "FullTable":
        kind = self.contrast and self.contrast.kind
        if kind == "pairsupcon" and self.data.pair_column is None:
            raise ValueError("pairsupcon learns from pairs: data has no pair_column")
        if kind is not None and self.problem == "multi":
            raise ValueError(f"{kind} brings texts of one label together; these have several")
        return self


FinetuneTable = Annotated[FrozenTable | FullTable, Field(discriminator="method")]
