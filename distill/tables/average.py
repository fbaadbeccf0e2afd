"""Which encoders are averaged, and how much each counts."""

import math
from typing import Annotated

from pydantic import Field, PositiveFloat, model_validator

from distill.tables.table import Table


class AverageTable(Table):
    """From encoders that were trained from one another to one (see `distill.average`)."""

    encoders: Annotated[tuple[str, ...], Field(min_length=2)]
    """Folders or hub ids."""
    shares: tuple[PositiveFloat, ...]
    """Of each in every weight of the result; together 1."""

    @model_validator(mode="after")
    def _shares_it_out(self) -> "AverageTable":
        if len(self.shares) != len(self.encoders):
            raise ValueError(f"{len(self.encoders)} encoders have {len(self.shares)} shares")
        if not math.isclose(sum(self.shares), 1.0, abs_tol=1e-5):
            raise ValueError(f"shares are {sum(self.shares):.9g} together, and have to be 1")
        return self
