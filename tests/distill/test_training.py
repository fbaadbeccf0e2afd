"""What a run is built of fits together, or it is not begun."""

from pathlib import Path

import pytest
from tiny_encoder import write_bert
from tiny_world import World, recipe, train_table
from tokenizers import Tokenizer

from distill import batches as batches_module
from distill.train import run
from distill.training import prepare


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "BLOCK_TEXTS", 256)


@pytest.mark.parametrize("positions", [10, 13])
def test_texts_fill_an_encoder_to_its_last_position(
    world: World, tmp_path: Path, positions: int
) -> None:
    tokenizer = Tokenizer.from_file(str(world.teacher / "tokenizer.json"))
    write_bert(tmp_path / "short", tokenizer, max_position_embeddings=positions)
    ends = {"teacher": str(tmp_path / "short"), "start": str(tmp_path / "short")}
    student = {"layers": 1, "initialisation": "bottom", "embeddings": "frozen"}
    table = train_table(world, max_tokens=positions, student=student, steps=3, **ends)
    ready = prepare(recipe(tmp_path / "run", train=table))
    _, batch = next(ready.batches.since(ready.batches.first()))
    assert any(len(ids) == positions for ids in batch.text.ids)
    run(recipe(tmp_path / "run", train=table))
