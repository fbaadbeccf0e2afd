"""Who a run is."""

from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from app.runtime.artifact import Name
from distill.tables.table import Table


class RunTable(Table):
    """Who this run is, where it writes, and the seed of everything random in it."""

    name: Name
    folder: Path
    seed: NonNegativeInt
    threads: PositiveInt
