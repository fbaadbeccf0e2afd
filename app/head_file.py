"""What a fitted head says of itself, and which model it is for: the contract of `head.json`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from app.errors import LightMBERTError, shortened
from app.runtime.artifact import (
    ClassificationTask,
    Fraction,
    HashedFile,
    Manifest,
    Name,
    Sha256,
    TaskName,
)
from app.runtime.outputs import Floats

HEAD_FILE = "head.json"


class HeadError(LightMBERTError):
    """A fitted head cannot be used, or not be written."""

    code = "bad_head"


class UnreadableHeadError(HeadError):
    """The system gives its files to nobody, now; it may in a moment."""


class ForeignHeadError(HeadError):
    """A head of another model, which may be served beside this one."""

    def __init__(self, *, model: str, served: str) -> None:
        self.model = model
        super().__init__(f"it was fitted on {model}; this is {served}")


class _Contract(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FittedOn(_Contract):
    """The student whose embeddings the head reads."""

    model: Name
    revision: str
    dimension: PositiveInt


class Expected(_Contract):
    """What cross-validation on the head's own rows says of it."""

    rows: PositiveInt
    """That it was fitted on."""
    accuracy: Fraction
    """Of several labels: the share of rows of which every label is right."""
    accuracy_low: Fraction
    accuracy_high: Fraction
    """The range that holds the accuracy with 95 % confidence."""
    macro_f1: Fraction
    calibration_error: Fraction
    answered: Fraction = 1.0
    """The share of rows that reach the threshold."""
    precision: Fraction | None = None
    """Of the labels given at the threshold, the share that is right."""


class HeadFile(_Contract):
    """What a fitted head says of itself: `head.json`."""

    schema_version: Literal[1] = 1
    name: TaskName
    fitted_on: FittedOn
    task: ClassificationTask
    weights: HashedFile
    expected: Expected
    created: str
    """ISO 8601 date."""
    data_sha256: Sha256
    """Of the rows that it was fitted on, in order."""
    seal: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """The sha256 of all the rest."""


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A linear classifier on unit embeddings."""

    file: HeadFile
    weight: Floats
    """(C, D)"""
    bias: Floats
    """(C,)"""

    def logits(self, vectors: Floats) -> Floats:
        """(B, D) unit vectors -> (B, C)."""
        found: Floats = vectors @ self.weight.T + self.bias
        return found


def check_fits(head: HeadFile, manifest: Manifest) -> None:
    """Refuse a head that reads other embeddings than this model's, or is named like one of its own.

    Raises:
        ForeignHeadError: it is of another model.
        HeadError: it is of another revision or dimension, or its name is taken.
    """
    on, dimension = head.fitted_on, manifest.embedding_dimension
    if on.model != manifest.name:
        raise ForeignHeadError(model=on.model, served=manifest.name)
    if on.revision != manifest.revision:
        raise HeadError(
            f"it was fitted on revision {shortened(on.revision)} of {on.model}; this is "
            f"{manifest.revision}. "
            "Fit it again"
        )
    if on.dimension != dimension:
        raise HeadError(f"it reads {on.dimension} dimensions; {on.model} gives {dimension}")
    check_name(head.name, manifest)


def check_name(name: str, manifest: Manifest) -> None:
    """Raise HeadError if the model has a head of that name already."""
    if name in manifest.tasks:
        raise HeadError(f"{manifest.name} ships with a head {name!r}; choose another name")
