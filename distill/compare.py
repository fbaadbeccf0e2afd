"""Verb: train several ways, several seeds of each, and measure them side by side.

    lightmbert distill compare distill/recipes/objectives.toml

For every variant and seed a recipe of its own is written to FOLDER/recipes and given to
`distill train`, then one for `distill evaluate` over all of them: whatever is compared can be
run again by itself. Started again, it goes on where it was stopped.
"""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from rich.console import Console

from app.errors import LightMBERTError
from distill.config import LoadedRecipe, RecipeError, load_recipe, require
from distill.tables.compare import CompareTable
from distill.tables.run import RunTable

Tables = dict[str, Any]


class CompareError(LightMBERTError):
    """A run of a comparison failed."""

    code = "comparison_failed"


@dataclass(frozen=True)
class Cell:
    """One training run: a variant with a seed."""

    variant: str
    name: str
    folder: Path
    tables: Tables
    """Its recipe."""

    @property
    def encoder(self) -> Path:
        return self.folder / "encoder"


def run(loaded: LoadedRecipe) -> None:
    """Train what is not trained yet, then measure all of it.

    Raises:
        RecipeError: the base cannot be read, or a variant of it is no recipe or is called as
            another system is that is measured.
        CompareError: runs failed, and the others were measured; or a folder is another recipe's.
    """
    table, run_table = require(loaded.recipe.compare, "compare"), loaded.recipe.run
    evaluate = require(loaded.recipe.evaluate, "evaluate")
    named = {*evaluate.encoders, *(system.name for system in evaluate.systems)}
    if twice := sorted(named & {variant.name for variant in table.variant}):
        raise RecipeError(f"variant {twice[0]!r} has the name of a system in [evaluate]")
    recipes = run_table.folder / "recipes"
    found = list(cells(table, run_table))
    for cell in found:  # all of them before the first, which may take hours, begins
        _prepare(cell, recipes)
    failed = [cell.name for cell in found if not _trained(cell, recipes)]
    encoders: dict[str, list[str]] = {}
    for cell in found:
        if cell.name not in failed:
            encoders.setdefault(cell.variant, []).append(str(cell.encoder))
    measured = evaluate.model_dump(mode="json", exclude_none=True)
    measured["encoders"] |= encoders
    run_keys = run_table.model_dump(mode="json")
    _write(recipes / "evaluate.toml", {"run": run_keys, "evaluate": measured})
    if status := _call("evaluate", recipes / "evaluate.toml"):
        raise CompareError(f"distill evaluate ended with {status}, see above")
    if failed:
        raise CompareError(
            f"{len(failed)} of {len(found)} runs failed, see above, and the report is without "
            f"them: {', '.join(failed)}; started again, the comparison goes on with them"
        )


def cells(table: CompareTable, run_table: RunTable) -> Iterator[Cell]:
    """Seed by seed, so that what was stopped early has compared some seeds of everything.

    Raises:
        RecipeError: the base has no `[train]`, or cannot be read.
    """
    base = _train_of(table.base)
    for seed in table.seeds:
        for variant in table.variant:
            name = f"{variant.name}-{seed}"
            folder = run_table.folder / "cells" / name
            run = {"name": name, "folder": str(folder), "seed": seed, "threads": run_table.threads}
            train = base | dict(table.train) | dict(variant.train)
            yield Cell(variant.name, name, folder, {"run": run, "train": train})


def _train_of(base: Path) -> Tables:
    try:
        tables = tomllib.loads(base.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"base {base} cannot be read: {error}") from error
    train: Tables | None = tables.get("train")
    if train is None:
        raise RecipeError(f"base {base} has no [train] table")
    return train


def _prepare(cell: Cell, recipes: Path) -> None:
    file, written = recipes / f"{cell.name}.toml", tomli_w.dumps(cell.tables)
    if cell.folder.exists() and (not file.exists() or file.read_text("utf-8") != written):
        raise CompareError(
            f"{cell.folder} was trained by another recipe than this comparison makes now; remove "
            "it or name another run folder"
        )
    _write(file, cell.tables)
    load_recipe(file)


def _write(file: Path, tables: Tables) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(tomli_w.dumps(tables), encoding="utf-8")


def _trained(cell: Cell, recipes: Path) -> bool:
    """Whether the cell is trained, by now or before; one that diverges must not stop the others."""
    if cell.encoder.is_dir():
        return True
    Console().print(cell.name)
    return _call("train", recipes / f"{cell.name}.toml") == 0


def _call(verb: str, recipe: Path) -> int:
    """Its status. In a process of its own: each run starts with fresh memory and random state."""
    command = [sys.executable, "-m", "app.cli", "distill", verb, str(recipe)]
    return subprocess.run(command, check=False).returncode
