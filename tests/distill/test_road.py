"""The road to lightmbert-mini: `make student` is too long to be run, but not to be read."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from distill.config import load_recipe

ROOT = Path(__file__).parents[2]
SETTINGS = {"DATA": "/data", "MINILM": "/minilm", "PHRASES": "/phrases"}
STEPS = [
    ("tokenizer", "mini-1-tokenizer"),
    ("align", "mini-2-align"),
    ("train", "mini-3-teacher"),
    ("train", "mini-4-student"),
    ("train", "mini-5-settle"),
    ("finetune", "mini-5-settle"),
    ("export", "mini-6-ship"),
    ("quantize", "mini-6-ship"),
    ("evaluate", "mini-6-ship"),
]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Not as a part of the make that runs the tests, whose flags and variables it would inherit.
    alone = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MF"))
    }
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=alone, capture_output=True, text=True, check=False
    )


def steps(target: str) -> list[tuple[str, str]]:
    """What would be run if nothing were there yet."""
    told = make("--always-make", "--dry-run", target, *map("=".join, SETTINGS.items()))
    assert told.returncode == 0, told.stderr
    return re.findall(r"lightmbert distill (\w+) distill/recipes/([\w-]+)\.toml", told.stdout)


def recipe(name: str) -> dict[str, Any]:
    return load_recipe(ROOT / f"distill/recipes/{name}.toml", SETTINGS).recipe.model_dump()


def test_one_command_goes_every_step_in_order() -> None:
    assert steps("student") == STEPS


def test_the_variants_are_made_from_what_the_road_left() -> None:
    made = [(verb, "mini-7-variants") for verb in ("export", "quantize", "evaluate")]
    assert steps("student-variants") == [*STEPS[:6], *made]


@pytest.mark.parametrize("target", ["student", "student-variants"])
def test_nothing_is_begun_before_all_settings_are_there(target: str) -> None:
    told = make(target, "DATA=/data", "PHRASES=/phrases", "MINILM=")
    assert told.returncode == 2
    assert told.stdout.splitlines()[0].startswith("say DATA=... MINILM=... PHRASES=...")


def test_each_step_starts_where_the_one_before_ended() -> None:
    align, teacher, student = map(recipe, ("mini-2-align", "mini-3-teacher", "mini-4-student"))
    settle, ship, variants = map(recipe, ("mini-5-settle", "mini-6-ship", "mini-7-variants"))
    assert align["align"]["tokenizer"] == recipe("mini-1-tokenizer")["run"]["folder"]
    for step, before in ((teacher, align), (student, teacher), (settle, student)):
        assert Path(step["train"]["start"]) == before["run"]["folder"] / "encoder"
    assert student["train"]["teacher"] == student["train"]["start"]
    settled = settle["run"]["folder"] / "encoder"
    assert settle["finetune"]["encoders"] == (settled,)
    for last in (ship, variants):
        assert last["export"]["encoder"] == settled
        made = {last[verb]["model_dir"] for verb in ("export", "quantize", "evaluate")}
        assert len(made) == 1
        assert last["evaluate"]["encoders"]["student"] == str(settled)


def test_the_student_is_measured_against_the_teacher_it_had() -> None:
    compared, student, settle = map(recipe, ("mini-8-teacher", "mini-4-student", "mini-5-settle"))
    teacher, settled = (
        step["run"]["folder"] / "encoder" for step in (recipe("mini-3-teacher"), settle)
    )
    assert Path(student["train"]["teacher"]) == teacher
    assert compared["finetune"]["encoders"] == (teacher,)
    assert compared["finetune"]["heads"] == settle["finetune"]["heads"]
    assert compared["evaluate"]["encoders"] == {"teacher": str(teacher), "student": str(settled)}


def test_the_variants_differ_from_what_ships_in_how_many_there_are_alone() -> None:
    ship, variants = recipe("mini-6-ship"), recipe("mini-7-variants")
    assert set(ship["quantize"]["variants"]) < set(variants["quantize"]["variants"])
    assert not ship["quantize"]["keep_fp32"]
    assert variants["quantize"]["keep_fp32"]
    for told in (ship["export"], variants["export"], ship["quantize"], variants["quantize"]):
        for key in ("model_dir", "variants", "keep_fp32"):
            told.pop(key, None)
    assert ship["export"] == variants["export"]
    assert ship["quantize"] == variants["quantize"]
    assert ship["run"]["seed"] == variants["run"]["seed"]
    assert ship["evaluate"]["zero_shot"] == variants["evaluate"]["zero_shot"]
