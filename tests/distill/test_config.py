import hashlib
import importlib
from pathlib import Path

import pytest
from tiny_world import World, recipe, sentence_table, train_table

from distill.config import RecipeError, load_recipe, require

RECIPES = sorted(Path(__file__).parents[2].glob("distill/recipes/*.toml"))
VARIABLES = {
    name: f"/{name}"
    for name in ("DATA", "MINILM", "PHRASES", "TEACHER", "STUDENT", "FURTHER", "CORPUS")
}
VERBS = (
    "tokenizer",
    "align",
    "train",
    "average",
    "finetune",
    "export",
    "quantize",
    "evaluate",
    "trim",
    "compare",
    "qat",
    "promote",
    "study",
)

RUN = """
[run]
name = "small"
folder = "${RUNS}/small"
seed = 1
threads = 1
"""
TOKENIZER = """
[tokenizer]
vocabulary = 100
kind = "unigram"
texts_per_language = 10
folder = "${RUNS}/tokenizer"

[[tokenizer.corpus]]
path = "$DATA/train"
languages = ["de", "${SECOND}"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_is_its_values_its_name_and_its_hash(tmp_path: Path) -> None:
    path = write(tmp_path, RUN + TOKENIZER)
    loaded = load_recipe(path, {"RUNS": "/r", "DATA": "/d", "SECOND": "sw"})
    assert loaded.recipe.run.folder == Path("/r/small")
    [corpus] = require(loaded.recipe.tokenizer, "tokenizer").corpus
    assert (corpus.path, corpus.languages) == (Path("/d/train"), ("de", "sw"))
    assert loaded.file_name == "small.toml"
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_variables_come_from_the_environment_unless_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, RUN)
    monkeypatch.setenv("RUNS", "/from/environment")
    assert load_recipe(path).recipe.run.folder == Path("/from/environment/small")
    assert load_recipe(path, {"RUNS": "/given"}).recipe.run.folder == Path("/given/small")
    with pytest.raises(RecipeError, match="RUNS"):
        load_recipe(path, {})


def test_an_unset_variable_is_named_with_its_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, RUN + TOKENIZER)
    with pytest.raises(RecipeError, match=r"small\.toml .*'SECOND'"):
        load_recipe(path, {"RUNS": "/r", "DATA": "/d"})


def test_a_dollar_that_is_no_variable_is_refused_or_doubled(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"small\.toml: bad .*costs \$5"):
        load_recipe(write(tmp_path, RUN.replace("${RUNS}/small", "costs $5")), {})
    loaded = load_recipe(write(tmp_path, RUN.replace("${RUNS}/small", "costs $$5")), {})
    assert loaded.recipe.run.folder == Path("costs $5")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RUN.replace("seed", "sead"), r"run\.sead: Extra.*"),
        (RUN.replace("seed = 1", ""), r"run\.seed: Field required"),
        (RUN.replace("threads = 1", "threads = 0"), r"run\.threads: .*greater than 0"),
        (RUN + "[tokeniser]\n", r"tokeniser: Extra"),
        (RUN + TOKENIZER.replace("languages", "language_s"), r"tokenizer\.corpus\.0\.language_s"),
        (RUN + TOKENIZER.replace("path =", "hub = 'x'\npath ="), "either a path or a hub name"),
        (RUN + TOKENIZER.replace("path =", "text_column ="), "either a path or a hub name"),
        (RUN + "= 3", "is not TOML"),
    ],
)
def test_a_malformed_recipe_is_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError, match=r"small\.toml.*" + said):
        load_recipe(path, {"RUNS": "/r", "DATA": "/d", "SECOND": "sw"})


def test_bytes_that_are_no_text_are_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"small\.toml is not TOML"):
        load_recipe(path)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml cannot be read: No such file"):
        load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_without_its_table_says_which_one_it_misses(verb: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"no \[{verb}\] table"):
        importlib.import_module(f"distill.{verb}").run(recipe(tmp_path))


def test_nothing_in_a_training_run_has_a_silent_default(world: World, tmp_path: Path) -> None:
    for table in (train_table(world), sentence_table(world)):
        for key in table:
            without = {other: value for other, value in table.items() if other != key}
            with pytest.raises(ValueError, match=rf"train\.{key}\n.*Field required"):
                recipe(tmp_path, train=without)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"warmup_steps": 8}, "warmup_steps 8 must be below steps 8"),
        ({"corpus": []}, "at least 1 item"),
        ({"objective": [{"kind": "kl"}]}, "'lightmbert', .*, 'sentence'"),
        ({"exponent": 1.5}, "less than or equal to 1"),
        ({"precision": "fp16"}, "'fp32' or 'bf16'"),
    ],
)
def test_a_training_table_that_cannot_work_is_refused(
    world: World, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        recipe(tmp_path, train=train_table(world, **changes))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_ships_is_valid(path: Path) -> None:
    loaded = load_recipe(path, VARIABLES)
    tables = set(loaded.recipe.model_dump(exclude_none=True)) - {"run"}
    assert tables
    assert tables <= set(VERBS)


def test_the_recipes_that_ship_are_found() -> None:
    assert len(RECIPES) >= 6


def test_the_command_that_heads_a_recipe_runs_it() -> None:
    for path in RECIPES:
        comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
        tables = load_recipe(path, VARIABLES).recipe.model_dump()
        commands = [line for line in comments if f"distill/recipes/{path.name}" in line]
        assert commands, f"{path.name} names no command"
        for command in commands:
            verb = command.split("distill/recipes")[0].split()[-1]
            assert tables[{"plan": "train"}.get(verb, verb)] is not None, f"{path.name}: {command}"
