"""Several ways to train, and several seeds of each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, field_validator

from app.runtime.artifact import Name
from distill.tables.table import Table

Changes = Mapping[str, Any]
"""Keys of the base's `[train]` that are other ones; what stands under a key is replaced whole."""


class VariantTable(Table):
    """One way to train."""

    name: Name
    train: Changes = Field(default_factory=dict)


class CompareTable(Table):
    """Variants of one `train` recipe x seeds; what they are measured on is in `[evaluate]`."""

    base: Path
    """A recipe with a `[train]` table, as it is found from where the command runs."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    train: Changes = Field(default_factory=dict)
    """Changed for all variants, as the number of steps."""
    variant: Annotated[tuple[VariantTable, ...], Field(min_length=1)]

    @field_validator("variant")
    @classmethod
    def _names_differ(cls, variants: tuple[VariantTable, ...]) -> tuple[VariantTable, ...]:
        names = [variant.name for variant in variants]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two variants are called {min(twice)!r}")
        return variants
