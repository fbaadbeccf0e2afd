"""The tables of a recipe: what each verb can be told, with units in the names."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from app.runtime.artifact import Name, TaskName

Share = Annotated[float, Field(ge=0, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunTable(_Table):
    """Who this run is, where it writes, and the seed of everything random in it."""

    name: Name
    folder: Path
    seed: NonNegativeInt
    threads: PositiveInt


class CorpusTable(_Table):
    """Text to read: local files or folders, or a dataset of the Hugging Face hub.

    A folder holds one file per language, named LANG.parquet, LANG.jsonl, LANG.csv or LANG.txt.
    """

    path: Path | None = None
    hub: str | None = None
    hub_config: str | None = None
    split: str = "train"
    language: str | None = None
    """Language of a single file or hub dataset; a folder's files name theirs."""
    languages: tuple[str, ...] | None = None
    """Keep only these of a folder's; None keeps all."""
    text_column: str = "text"
    pair_column: str | None = None
    """Column of the English translation, for parallel text."""
    group_column: str | None = None
    """Column whose values are sampled apart within a language, such as the source."""
    max_rows: PositiveInt | None = None
    """Of each file, or of the hub dataset: its first rows."""

    @model_validator(mode="after")
    def _one_place(self) -> "CorpusTable":
        if (self.path is None) == (self.hub is None):
            raise ValueError("a corpus has either a path or a hub name")
        return self


Corpora = Annotated[tuple[CorpusTable, ...], Field(min_length=1)]


class TokenizerTable(_Table):
    """Train a tokenizer on several languages."""

    corpus: Corpora
    kind: Literal["bpe", "unigram"]
    vocabulary: PositiveInt
    texts_per_language: PositiveInt
    texts_of: dict[str, PositiveInt] = {}
    """Languages that get more texts, or fewer, than the others."""
    folder: Path


class AlignTable(_Table):
    """Give an English encoder a multilingual embedding table (see `distill.align`)."""

    english: Path
    tokenizer: Path
    corpus: Corpora
    steps: PositiveInt
    batch_texts: PositiveInt
    learning_rate: PositiveFloat
    exponent: Share
    max_tokens: PositiveInt
    contrastive_weight: NonNegativeFloat
    contrastive_temperature: PositiveFloat


class StudentTable(_Table):
    """How the student starts and what of it stays as it was."""

    layers: PositiveInt
    freeze_embeddings: bool


class LightmbertTable(_Table):
    """Weights of the two terms of LightMBERT's objective."""

    kind: Literal["lightmbert"]
    attention_weight: NonNegativeFloat
    hidden_weight: NonNegativeFloat


class SentenceTable(_Table):
    """Weights of the sentence objective: distance to the teacher, and telling texts apart."""

    kind: Literal["sentence"]
    distance_weight: NonNegativeFloat
    contrastive_weight: NonNegativeFloat
    contrastive_temperature: PositiveFloat


Objective = Annotated[LightmbertTable | SentenceTable, Field(discriminator="kind")]


class TrainTable(_Table):
    """One training run: teacher, student, objective, text and schedule."""

    teacher: str
    """Hub id or local folder."""
    student: StudentTable
    start: str
    """Encoder whose bottom layers the student copies: hub id or local folder."""
    objective: Objective
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


class LabelledTable(_Table):
    """Labelled text in a parquet, jsonl or csv file."""

    path: Path
    text_column: str
    label_column: str
    where: dict[str, str]
    """Column -> value a row must have, such as split = "train"."""


class HeadTable(_Table):
    """One classification head, trained on the frozen encoder's unit embeddings."""

    task: TaskName
    data: LabelledTable
    inverse_regularization: PositiveFloat
    """scikit-learn's C: larger trusts the data more."""


class FinetuneTable(_Table):
    """Heads to add to encoder folders."""

    encoders: tuple[Path, ...]
    heads: tuple[HeadTable, ...]
    max_tokens: PositiveInt


class ExportTable(_Table):
    """From an encoder folder to the fp32 graph of a model folder."""

    encoder: Path
    model_dir: Path
    name: Name
    revision: str
    license: str
    languages: tuple[str, ...]
    max_tokens: PositiveInt
    golden_texts: tuple[str, ...]
    min_cosine: Share


class QuantizeTable(_Table):
    """Smaller variants of an exported graph, and how far each may stray from fp32."""

    model_dir: Path
    variants: tuple[Literal["int8-avx2", "int8-vnni", "fp16"], ...]
    calibration: Corpora
    """Text like that which will be served; int8 takes the ranges of its activations from it."""
    calibration_texts: PositiveInt
    min_cosine_int8: Share
    min_cosine_fp16: Share
    max_probability_error: Share
    keep_fp32: bool
    parity_texts: tuple[str, ...]


class EvaluateTable(_Table):
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


class Recipe(_Table):
    """The whole file. A verb needs its own table and ignores the rest."""

    run: RunTable
    tokenizer: TokenizerTable | None = None
    align: AlignTable | None = None
    train: TrainTable | None = None
    finetune: FinetuneTable | None = None
    export: ExportTable | None = None
    quantize: QuantizeTable | None = None
    evaluate: EvaluateTable | None = None
