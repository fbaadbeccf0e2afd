"""What every classification head tells of itself, whatever it reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from app.errors import LightMBERTError
from app.runtime.artifact import ClassificationTask, TaskName


class HeadError(LightMBERTError):
    """A head is malformed, on disk or in memory, or does not fit its encoder."""

    code = "bad_head"


@dataclass(frozen=True, kw_only=True)
class Stated:
    """A head, but for its tensors.

    Raises:
        HeadError: the task cannot be stated in a manifest.
    """

    task: str
    labels: tuple[str, ...]
    problem_type: Literal["single", "multi"]
    temperature: float = 1.0
    threshold: float | None = None
    pair: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            TypeAdapter(TaskName).validate_python(self.task)
            self.as_task()
        except ValidationError as error:
            raise HeadError(f"head {self.task!r}: {error}") from error

    def as_task(self) -> ClassificationTask:
        """Return the head as a manifest states it: without its tensors."""
        return ClassificationTask(
            labels=self.labels,
            problem_type=self.problem_type,
            temperature=self.temperature,
            threshold=self.threshold,
            pair=self.pair,
        )
