"""Everything one run of the benchmark found, round by round."""

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from .closed import Cell
from .overload import Overload
from .processes import Memory


@dataclass
class Results:
    """Keys are names of systems, of cells, and of graphs."""

    machine: str
    rounds: int
    seconds: float
    cells: dict[str, dict[str, list[Cell]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    limits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Texts/s of ONNX Runtime alone with the graph that the system serves."""
    limit_shapes: dict[str, str] = field(default_factory=dict)
    starts_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, Memory] = field(default_factory=dict)
    overload: dict[str, list[Overload]] = field(default_factory=lambda: defaultdict(list))
    agreement: dict[str, float] = field(default_factory=dict)
    limit_cpu_s_per_million_tokens: dict[str, float] = field(default_factory=dict)
    foreign_cpus: list[float] = field(default_factory=list)
    """Per measurement: processors that others kept busy meanwhile; near 0 on a quiet machine."""

    def values(self, system: str, cell: str, figure: str) -> list[float]:
        return [getattr(each, figure) for each in self.cells[system][cell]]

    def as_json(self) -> dict[str, Any]:
        """Every figure, for programs."""
        cells = {
            name: {cell: [asdict(each) for each in rounds] for cell, rounds in by_cell.items()}
            for name, by_cell in self.cells.items()
        }
        overload = {name: [asdict(each) for each in runs] for name, runs in self.overload.items()}
        memory = {name: asdict(each) for name, each in self.memory.items()}
        return {**vars(self), "cells": cells, "overload": overload, "memory": memory}
