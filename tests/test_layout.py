"""The house stays as it was laid out: small files, named rooms, true README."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 300
SOURCES = sorted(path for room in ("app", "distill") for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_idea_and_so_not_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_each_module_of_distill_is_known_as_a_noun_or_a_verb() -> None:
    nouns = contract("Nouns do not import verbs")
    assert modules("distill") == {*nouns["source_modules"], *nouns["forbidden_modules"]}


def test_each_module_of_app_has_its_layer() -> None:
    layers = contract("Inside app, imports point down")["layers"]
    assert modules("app") == {name for layer in layers for name in layer.split(" | ")}


def test_each_other_module_of_app_is_kept_from_distill() -> None:
    kept = contract("distill sees of app only app.runtime and app.errors")["forbidden_modules"]
    assert modules("app") - {"app.runtime", "app.errors"} == set(kept)


def contract(name: str) -> dict[str, Any]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return next(c for c in config["tool"]["importlinter"]["contracts"] if c["name"] == name)


def modules(room: str) -> set[str]:
    files = {path.stem for path in (ROOT / room).glob("[a-z]*.py")}
    packages = {path.parent.name for path in (ROOT / room).glob("*/__init__.py")}
    return {f"{room}.{name}" for name in files | packages}


def test_what_the_readme_draws_is_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"## The tree\n\n```\n(.*?)```", readme, re.DOTALL)
    assert tree is not None
    room = ROOT
    for line in tree[1].splitlines():
        name = line.split()[0]
        room = ROOT if not line.startswith(" ") else room
        path = (room if line.startswith(" ") else ROOT) / name
        assert path.exists(), line
        if not line.startswith(" ") and path.is_dir():
            room = path


def test_each_room_says_what_it_is() -> None:
    for room in (
        "app",
        "app/api",
        "app/playground",
        "distill",
        "distill/objectives",
        "models",
        "deploy",
        "tests",
    ):
        assert (ROOT / room / "README.md").is_file(), room
