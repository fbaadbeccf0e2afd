import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tiny_world import World, recipe, sentence_table, train_table

from distill import batches as batches_module
from distill.batches import Cursor, Tokens, load_tokenizer, tokenize
from distill.checkpoint import Progress
from distill.config import RecipeError
from distill.tables.train import TrainTable
from distill.targets import TARGETS_FILE, Targets, TargetsError, open_targets
from distill.teacher import Encoder, encode, load_teacher
from distill.train import measured, train
from distill.training import prepare


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "BLOCK_TEXTS", 512)


class Counting:
    """A teacher that counts the texts it is asked for."""

    def __init__(self, teacher: Encoder) -> None:
        self.teacher, self.texts = teacher, 0

    def __call__(self, tokens: Tokens) -> torch.Tensor:
        self.texts += len(tokens.ids)
        return encode(self.teacher, tokens).pooled


@pytest.fixture
def teacher(world: World) -> Counting:
    return Counting(load_teacher(str(world.english)))


def tokens(world: World, texts: list[str]) -> Tokens:
    return tokenize(load_tokenizer(world.english / "tokenizer.json", max_tokens=16), texts)


def opened(folder: Path, world: World, asked: Counting, **changes: object) -> Targets:
    table = TrainTable.model_validate(sentence_table(world, **changes))
    return open_targets(folder, asked.teacher, table)


def test_a_text_is_computed_once_and_found_in_any_company(
    world: World, tmp_path: Path, teacher: Counting
) -> None:
    targets = opened(tmp_path, world, teacher)
    first = targets.pooled(tokens(world, ["the dog sleeps", "a bird"]), teacher)
    assert teacher.texts == 2
    expected = encode(teacher.teacher, tokens(world, ["the dog sleeps", "a bird"])).pooled
    torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-3)
    wider = ["a bird", "the cat eats by the river in town", "the dog sleeps"]
    second = targets.pooled(tokens(world, wider), teacher)
    assert teacher.texts == 3
    assert len(targets) == 3
    assert torch.equal(second[[2, 0]], first)


def test_what_was_kept_is_found_by_the_next_run_bit_for_bit(
    world: World, tmp_path: Path, teacher: Counting
) -> None:
    asked = tokens(world, ["the dog sleeps", "a bird"])
    kept = opened(tmp_path, world, teacher).pooled(asked, teacher)
    again = opened(tmp_path, world, teacher).pooled(asked, teacher)
    assert teacher.texts == 2
    assert torch.equal(kept, again)
    assert kept.dtype == torch.float32


@pytest.mark.parametrize("other", ["weights", "precision", "max_tokens", "tokenizer"])
def test_another_teacher_or_setting_finds_nothing(
    world: World, tmp_path: Path, teacher: Counting, other: str
) -> None:
    asked = tokens(world, ["the dog sleeps"])
    opened(tmp_path, world, teacher).pooled(asked, teacher)
    changes: dict[str, object] = {}
    if other == "weights":
        with torch.no_grad():
            teacher.teacher.encoder.layer[0].output.dense.bias[0] += 1e-3
    elif other == "precision":
        changes = {"precision": "bf16"}
    elif other == "max_tokens":
        changes = {"max_tokens": 31}
    else:
        changes = {"teacher": str(world.teacher)}
    opened(tmp_path, world, teacher, **changes).pooled(asked, teacher)
    assert teacher.texts == 2


def test_padding_is_no_part_of_a_text(world: World, tmp_path: Path, teacher: Counting) -> None:
    targets = opened(tmp_path, world, teacher)
    asked = tokens(world, ["the dog sleeps"])
    padded = Tokens(
        torch.nn.functional.pad(asked.ids, (0, 3), value=7),
        torch.nn.functional.pad(asked.mask, (0, 3)),
    )
    assert torch.equal(targets.pooled(asked, teacher), targets.pooled(padded, teacher))
    assert teacher.texts == 1


def test_a_run_with_kept_targets_learns_what_one_without_learns(
    world: World, tmp_path: Path
) -> None:
    def losses(folder: str, **changes: object) -> list[float]:
        ready = prepare(recipe(tmp_path / folder, train=sentence_table(world, **changes)))
        start = Progress(0, ready.batches.first())
        return [float(measured(record)["loss"]) for record, _ in train(ready, start)]

    ready = prepare(recipe(tmp_path / "seen", train=sentence_table(world)))
    seen = set()
    for _, (_, batch) in zip(range(8), ready.batches.since(Cursor()), strict=False):
        assert batch.teacher_english is not None
        rows = zip(batch.teacher_english.ids, batch.teacher_english.mask, strict=True)
        seen |= {tuple(ids[mask].tolist()) for ids, mask in rows}
    plain = losses("plain")
    first = losses("first", cache_targets=tmp_path / "targets")
    second = losses("second", cache_targets=tmp_path / "targets")
    assert first == pytest.approx(plain, rel=5e-3)
    assert second == first
    with sqlite3.connect(tmp_path / "targets" / TARGETS_FILE) as database:
        [(count,)] = database.execute("SELECT COUNT(*) FROM pooled")
    assert count == len(seen) > 20


def test_targets_of_tokens_are_refused(world: World, tmp_path: Path) -> None:
    table = train_table(world, cache_targets=tmp_path / "targets")
    with pytest.raises(RecipeError, match=r"objective 'lightmbert' compares tokens"):
        prepare(recipe(tmp_path / "run", train=table))
    assert not (tmp_path / "targets").exists()


def test_a_cache_that_is_none_is_named(world: World, tmp_path: Path, teacher: Counting) -> None:
    (tmp_path / TARGETS_FILE).write_bytes(b"no database, though long enough to be taken for one")
    with pytest.raises(TargetsError, match=rf"{TARGETS_FILE} cannot be opened: .*not a database"):
        opened(tmp_path, world, teacher)


def test_processes_that_start_together_open_one_cache(tmp_path: Path) -> None:
    """Each in a thread here: file locks of sqlite and of ours are held by what was opened."""
    together = threading.Barrier(8)

    def opened(folder: Path) -> int:
        together.wait(timeout=10)
        return len(Targets(folder, b"teacher"))

    with ThreadPoolExecutor(8) as processes:
        for number in range(20):
            folders = [tmp_path / str(number)] * 8
            assert list(processes.map(opened, folders)) == [0] * 8
