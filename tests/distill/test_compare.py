import importlib
import tomllib
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest
import tomli_w
from tiny_world import WORDS, World, recipe, sentences, train_table

from distill import compare
from distill.compare import CompareError, cells
from distill.config import RecipeError, load_recipe

BOTTOM = {"layers": 1, "initialisation": "bottom", "embeddings": "frozen"}
RANDOM = {"layers": 1, "initialisation": "random", "embeddings": "frozen"}


@pytest.fixture
def tables(world: World, tmp_path: Path) -> dict[str, dict]:
    """Two variants, two seeds; retrieval from three languages."""
    base = tmp_path / "base.toml"
    run = {"name": "base", "folder": "none", "seed": 9, "threads": 1}
    table = recipe(tmp_path, train=train_table(world)).recipe.train
    assert table is not None
    train = table.model_dump(mode="json", exclude_none=True)
    base.write_text(tomli_w.dumps({"run": run, "train": train}))
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for language in ("de", "zh"):
        columns = {"text": sentences(language)[:8], "text_en": sentences("en")[:8]}
        pa.parquet.write_table(pa.table(columns), pairs / f"{language}.parquet")
    return {
        "run": {"name": "tiny", "folder": str(tmp_path / "run"), "seed": 1, "threads": 1},
        "compare": {
            "base": str(base),
            "seeds": [1, 2],
            "train": {"steps": 3, "warmup_steps": 1},
            "variant": [
                {"name": "bottom", "train": {"student": BOTTOM}},
                {"name": "random", "train": {"student": RANDOM}},
            ],
        },
        "evaluate": {
            "teacher": "teacher",
            "encoders": {"teacher": str(world.teacher)},
            "languages": list(WORDS),
            "source_language": "en",
            "split": "dev",
            "tatoeba": str(pairs),
            "max_tokens": 32,
            "report": str(tmp_path / "run" / "report"),
        },
    }


def run(tables: dict[str, dict], tmp_path: Path) -> None:
    file = tmp_path / "compare.toml"
    file.write_text(tomli_w.dumps(tables))
    compare.run(load_recipe(file))


def test_every_variant_is_trained_with_every_seed_and_measured(
    tables: dict[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call_here(verb: str, file: Path) -> int:
        importlib.import_module(f"distill.{verb}").run(load_recipe(file))
        return 0

    monkeypatch.setattr(compare, "_call", call_here)  # a process of its own takes seconds to start
    run(tables, tmp_path)
    summary = orjson.loads((tmp_path / "run/report/summary.json").read_bytes())
    assert list(summary) == ["teacher", "bottom", "random"]
    assert summary["teacher"]["tatoeba_to_english"]["others"]["spread"] is None
    assert summary["random"]["tatoeba_to_english"]["others"]["spread"] is not None
    first, second = (
        (tmp_path / "run/cells" / name / "encoder/model.safetensors").read_bytes()
        for name in ("random-1", "random-2")
    )
    assert first != second

    called: list[str] = []
    monkeypatch.setattr(compare, "_call", lambda verb, recipe: called.append(verb) or 0)
    run(tables, tmp_path)
    assert called == ["evaluate"]
    tables["compare"]["train"]["steps"] = 4
    with pytest.raises(CompareError, match="another recipe"):
        run(tables, tmp_path)


def test_a_cell_is_a_recipe_of_the_base_with_what_is_changed(
    tables: dict[str, dict], tmp_path: Path
) -> None:
    file = tmp_path / "compare.toml"
    file.write_text(tomli_w.dumps(tables))
    loaded = load_recipe(file).recipe
    assert loaded.compare is not None
    found = list(cells(loaded.compare, loaded.run))
    assert [cell.name for cell in found] == ["bottom-1", "random-1", "bottom-2", "random-2"]
    train, seed = found[3].tables["train"], found[3].tables["run"]["seed"]
    assert (train["student"], train["steps"], train["max_tokens"], seed) == (RANDOM, 3, 32, 2)


def test_nothing_is_trained_when_one_variant_is_no_recipe(
    tables: dict[str, dict], tmp_path: Path
) -> None:
    tables["compare"]["variant"][1]["train"] = {"steps": -1}
    with pytest.raises(RecipeError, match=r"random-1\.toml.*steps"):
        run(tables, tmp_path)
    assert not (tmp_path / "run/cells").exists()


def test_a_variant_does_not_stand_in_for_another_system(
    tables: dict[str, dict], tmp_path: Path
) -> None:
    tables["compare"]["variant"][1]["name"] = "teacher"
    with pytest.raises(RecipeError, match=r"variant 'teacher' has the name of a system"):
        run(tables, tmp_path)
    assert not (tmp_path / "run").exists()


def test_runs_that_fail_are_named_and_the_others_are_measured(
    tables: dict[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def call(verb: str, file: Path) -> int:
        called.append(file.stem)
        if verb == "train" and file.stem != "bottom-2":
            (tmp_path / "run/cells" / file.stem / "encoder").mkdir(parents=True)
        return int(file.stem == "bottom-2")

    monkeypatch.setattr(compare, "_call", call)
    with pytest.raises(CompareError, match=r"1 of 4 runs failed.*without them: bottom-2;"):
        run(tables, tmp_path)
    assert called == ["bottom-1", "random-1", "bottom-2", "random-2", "evaluate"]
    measured = tomllib.loads((tmp_path / "run/recipes/evaluate.toml").read_text())["evaluate"]
    assert [len(measured["encoders"][name]) for name in ("bottom", "random")] == [1, 2]


def test_a_verb_is_called_in_a_process_and_its_status_told(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert compare._call("bends", Path("cell.toml")) == 2
    assert "bends" in capfd.readouterr().err


def test_a_base_without_training_is_refused(tables: dict[str, dict], tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("[run]\nname = 'base'\n")
    with pytest.raises(RecipeError, match=r"no \[train\] table"):
        run(tables, tmp_path)
    tables["compare"]["base"] = str(tmp_path / "nowhere.toml")
    with pytest.raises(RecipeError, match="cannot be read"):
        run(tables, tmp_path)
