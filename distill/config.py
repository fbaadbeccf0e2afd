"""A recipe: one run, one TOML file, one frozen object.

Every verb reads its own table of the recipe and refuses a recipe without it. Nothing has a
silent default, unknown keys are refused, and `${NAME}` in a string is filled from the
environment, so that a recipe names data without knowing where it lies.
"""

import hashlib
import os
import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from app.errors import LightMBERTError
from distill.tables import Recipe


class RecipeError(LightMBERTError):
    """A recipe is missing, malformed, or lacks what the verb needs."""

    code = "bad_recipe"


@dataclass(frozen=True)
class LoadedRecipe:
    """A validated recipe with the name and hash of its file."""

    recipe: Recipe
    file_name: str
    sha256: str
    text: str = ""
    """The file as it is written, its variables not filled in."""


def load_recipe(path: Path, variables: Mapping[str, str] | None = None) -> LoadedRecipe:
    """Read, fill and validate a recipe.

    Raises:
        RecipeError: the file is missing or malformed, a key is unknown, or a variable unset.
    """
    try:
        raw = path.read_bytes()
        tables = tomllib.loads(raw.decode("utf-8"))
        environment = os.environ if variables is None else variables
        recipe = Recipe.model_validate(_filled(tables, environment, path))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        raise RecipeError(f"{path}: {problems}") from error
    return LoadedRecipe(recipe, path.name, hashlib.sha256(raw).hexdigest(), raw.decode("utf-8"))


TableT = TypeVar("TableT")


def require(table: TableT | None, name: str) -> TableT:
    """Return the recipe's table, or say which one the verb misses.

    Raises:
        RecipeError: the recipe has no such table.
    """
    if table is None:
        raise RecipeError(f"this recipe has no [{name}] table, which the verb needs")
    return table


def _filled(value: Any, variables: Mapping[str, str], path: Path) -> Any:  # noqa: ANN401 - TOML
    if isinstance(value, dict):
        return {key: _filled(item, variables, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables, path) for item in value]
    if isinstance(value, str):
        try:
            return string.Template(value).substitute(variables)
        except KeyError as error:
            raise RecipeError(f"{path} needs the environment variable {error}, unset") from error
        except ValueError as error:
            raise RecipeError(f"{path}: bad ${{...}} in {value!r}") from error
    return value
