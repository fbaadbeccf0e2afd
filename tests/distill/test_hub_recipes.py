"""The recipes for the hub's encoders and corpora run unchanged where those are tiny folders."""

from itertools import islice
from pathlib import Path

import pytest
import torch
import yaml
from tiny_encoder import TEXTS, write_family
from tiny_hub import write_hub

from distill import batches as batches_module
from distill import plan
from distill.checkpoint import Progress
from distill.config import LoadedRecipe, load_recipe
from distill.train import measured, train
from distill.training import prepare

RECIPES = Path(__file__).parents[2] / "distill" / "recipes"
TEACHERS = {
    "mbert-6": ("bert", {"num_hidden_layers": 12, "max_position_embeddings": 128}),
    "mmbert-small-6": (
        "modernbert",
        {
            "num_hidden_layers": 22,
            "hidden_size": 48,
            "num_attention_heads": 6,
            "max_position_embeddings": 128,
        },
    ),
}
LANGUAGES = {"mbert-6": 103, "mmbert-small-6": 48}


# opening a hundred configurations takes the hub's library most of half a minute
@pytest.fixture(params=[pytest.param("mbert-6", marks=pytest.mark.slow), "mmbert-small-6"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> LoadedRecipe:
    family, changes = TEACHERS[request.param]
    write_family(tmp_path / "teacher", family, **changes)
    variables = {"TEACHER": str(tmp_path / "teacher"), "CORPUS": str(tmp_path / "corpus")}
    found = load_recipe(RECIPES / f"{request.param}.toml", variables)
    assert found.recipe.train is not None
    languages = found.recipe.train.corpus[0].languages
    assert languages is not None
    assert len(set(languages)) == len(languages) == LANGUAGES[request.param]
    articles = {language: ["\n\n".join(TEXTS)] * (2 + len(language)) for language in languages}
    write_hub(tmp_path / "corpus", articles, prefix="20231101.")
    return found


def test_it_is_planned_and_its_first_steps_are_taken(
    loaded: LoadedRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(batches_module, "BLOCK_TEXTS", 256)
    # the description of a dataset is read once a language
    monkeypatch.setattr(yaml, "SafeLoader", getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    monkeypatch.chdir(tmp_path)
    plan.run(loaded)
    told = capsys.readouterr().out
    assert f"{loaded.recipe.run.name}: size" in told
    assert "H100" in told

    ready = prepare(loaded)
    before = {name: tensor.clone() for name, tensor in ready.student.state_dict().items()}
    start = Progress(0, ready.batches.first())
    records = [measured(record) for record, _ in islice(train(ready, start), 2)]
    assert [record["step"] for record in records] == [1, 2]
    assert all(record["loss"] > 0 for record in records)
    after = ready.student.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert any(name.startswith("encoder.layer.5.attention") for name in moved)
    assert "embeddings.word_embeddings.weight" not in moved
    assert not list(tmp_path.glob("runs/**/*"))
