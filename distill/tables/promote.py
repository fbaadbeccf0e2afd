"""What a model folder must keep of its reference to take the place of another."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeFloat, model_validator

from distill.tables.table import Share, Table


class PromoteTable(Table):
    """Limits of a candidate, and the place it is put in once it keeps to them."""

    candidate: Path
    """A model folder, measured by `evaluate`."""
    folder: Path
    """The model folder whose place it takes; there may be none yet."""
    evaluation: Path
    """The evaluation.json that `evaluate` wrote of the candidate."""
    reference: str
    """The system of that file that losses are counted from, such as fp32, student or teacher."""
    max_loss: Annotated[dict[str, NonNegativeFloat], Field(min_length=1)]
    """Benchmark -> how much lower a score may be, in any one language; 0.01 is a point."""
    min_cosine: Share
    """To the golden embeddings, of every variant."""
    max_probability_error: Share
    """Against the golden probabilities, of every variant."""

    @model_validator(mode="after")
    def _goes_somewhere(self) -> "PromoteTable":
        if self.candidate.resolve() == self.folder.resolve():
            raise ValueError(f"candidate and folder are both {self.folder}")
        return self
