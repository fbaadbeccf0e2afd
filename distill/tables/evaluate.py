"""What to measure, on what, and where the report goes."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from app.runtime.artifact import Precision, TaskName
from distill.tables.finetune import HeadTable
from distill.tables.labelled import LabelledFolder
from distill.tables.table import Table


class AdapterTable(Table):
    """How to read a folder with a graph and a tokenizer that is no model folder of ours."""

    graph: str
    """File in the folder, such as onnx/model.onnx."""
    tokenizer: str
    ids: str
    """Name of the graph's input of token ids."""
    mask: str | None = None
    types: str | None = None
    """Name of its input of segments, where it has one."""
    output: str
    pooling: Literal["mean", "cls", "none"]
    """How its output becomes one vector per text; none where it is one: (B, H)."""
    max_tokens: PositiveInt
    prefix: str = ""
    """What every text must begin with, such as "query: "."""


class SystemTable(Table):
    """A folder to measure, or several that differ in their seed alone."""

    name: str
    folders: Annotated[tuple[Path, ...], Field(min_length=1)]
    precision: Precision | None = None
    """Variant of our model folders."""
    adapter: AdapterTable | None = None
    """For other folders."""

    @model_validator(mode="after")
    def _one_way_to_read_it(self) -> "SystemTable":
        if (self.precision is None) == (self.adapter is None):
            raise ValueError(f"{self.name!r} needs a precision or an adapter, and not both")
        return self


class ClassificationTable(Table):
    """Labelled text in several languages, for any head."""

    name: TaskName
    """Of the benchmark."""
    task: TaskName
    """Of the head."""
    metric: Literal["accuracy", "macro_f1", "micro_f1"]
    """micro_f1 where several labels may be right at once."""
    meaning: str
    """What the table of its scores is headed by."""
    rows: LabelledFolder


class ZeroShotTable(Table):
    """On which rows the scale of labels by similarity is fitted, for the manifest."""

    rows: LabelledFolder
    template: str
    """What is embedded for a label; `{}` in it stands for the label."""

    @field_validator("template")
    @classmethod
    def _has_one_gap(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise ValueError(f"{template!r} must hold {{}} once")
        return template


class MtebTable(Table):
    """Tasks of the `mteb` library, which fetches their data; needs the extra mteb."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Their names there."""
    languages: Annotated[dict[str, str], Field(min_length=1)]
    """Name of a language here -> its ISO 639-3 code there, as de = "deu"."""


class DataTable(Table):
    """A data set that a student was made from or measured on, for its card."""

    name: str
    license: str
    source: str


class EvaluateTable(Table):
    """What to measure, on what, and where the report goes."""

    model_dir: Path | None = None
    """Model folder whose manifest and card are told; each variant that runs here is measured."""
    systems: tuple[SystemTable, ...] = ()
    """More model folders, and folders of others."""
    encoders: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """Name -> encoder folder or hub id, measured through torch: a teacher rarely has a graph.
    Or several folders that differ in their seed alone."""
    teacher: str
    """Which of all these retention is measured against."""
    probes: tuple[HeadTable, ...] = ()
    """Heads to fit, on its own embeddings, for a system that has none for the task."""
    languages: tuple[str, ...]
    source_language: str
    """The language the heads were trained on."""
    split: str
    """Of topic, sentiment and sts."""
    topic: Path | None = None
    sentiment: Path | None = None
    tatoeba: Path | None = None
    sts: Path | None = None
    max_sts_pairs: PositiveInt | None = None
    """Per language, the first ones of its split."""
    classification: tuple[ClassificationTable, ...] = ()
    zero_shot: ZeroShotTable | None = None
    """The manifest keeps what it says where this is left out."""
    mteb: MtebTable | None = None
    max_tokens: PositiveInt
    """At which encoders cut a text; folders say so themselves."""
    description: str = ""
    """First paragraph of the card."""
    weaknesses: tuple[str, ...] = ()
    """Said plainly in the card."""
    data: tuple[DataTable, ...] = ()
    """Named in the card."""
    report: Path
    """Folder of evaluation.json, summary.json, evaluation.md and heatmap.png."""

    @model_validator(mode="after")
    def _teacher_is_measured(self) -> "EvaluateTable":
        names = [*self.encoders, *(system.name for system in self.systems)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two systems are called {min(twice)!r}")
        if self.teacher not in names:
            known = ", ".join(names) or "none"
            raise ValueError(f"teacher {self.teacher!r} is not among those measured: {known}")
        return self

    @model_validator(mode="after")
    def _something_is_measured(self) -> "EvaluateTable":
        sets = (self.topic, self.sentiment, self.tatoeba, self.sts, self.mteb)
        if not any(sets) and not self.classification:
            raise ValueError(
                "nothing to measure on: no topic, sentiment, tatoeba, sts, classification or mteb"
            )
        strange = set(self.mteb.languages if self.mteb else ()) - set(self.languages)
        if strange:
            raise ValueError(f"mteb has {min(strange)!r}, which languages lack: {self.languages}")
        if (self.sts is None) != (self.max_sts_pairs is None):
            raise ValueError("sts and max_sts_pairs go together")
        return self

    @model_validator(mode="after")
    def _a_card_is_written(self) -> "EvaluateTable":
        if self.model_dir is not None and not (self.description and self.weaknesses):
            raise ValueError(f"the card of {self.model_dir} needs a description and weaknesses")
        return self
