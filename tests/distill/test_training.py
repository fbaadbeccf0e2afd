"""What a run is built of fits together, or it is not begun."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoder import write_bert
from tiny_objectives import DISTILBERT
from tiny_world import World, recipe, train_table
from tokenizers import Tokenizer

from distill import batches as batches_module
from distill import training
from distill.checkpoint import CHECKPOINT_FILE, CheckpointError, Progress
from distill.config import RecipeError
from distill.masking import MaskingError
from distill.teacher import fingerprint_of, load_teacher
from distill.train import run, train
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


@pytest.mark.parametrize(
    "student",
    [
        {"layers": 2, "initialisation": "bottom", "embeddings": "trained"},
        {"layers": 2, "initialisation": "bottom", "embeddings": "factorised", "rank": 4},
    ],
    ids=["all", "the small factor"],
)
def test_embeddings_that_are_to_learn_need_a_rate(
    world: World, tmp_path: Path, student: dict[str, object]
) -> None:
    table = train_table(world, student=student, embedding_learning_rate=0.0)
    with pytest.raises(RecipeError, match=r"embedding_learning_rate is 0, and word_embeddings\."):
        prepare(recipe(tmp_path, train=table))
    prepare(recipe(tmp_path, train=train_table(world, embedding_learning_rate=0.0)))


@pytest.mark.parametrize("max_tokens", [1, 2])
def test_texts_need_room_beside_their_frame(world: World, tmp_path: Path, max_tokens: int) -> None:
    with pytest.raises(RecipeError, match=rf"max_tokens {max_tokens} leaves .* by 2 tokens"):
        prepare(recipe(tmp_path, train=train_table(world, max_tokens=max_tokens)))
    prepare(recipe(tmp_path, train=train_table(world, max_tokens=3)))


def test_a_tokenizer_without_a_mask_piece_is_refused_before_weights_are_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world.teacher, tmp_path / "maskless")
    file = tmp_path / "maskless" / "tokenizer.json"
    file.write_text(file.read_text("utf-8").replace("[MASK]", "[HIDE]"), "utf-8")
    ends = {"teacher": str(tmp_path / "maskless"), "start": str(tmp_path / "maskless")}
    monkeypatch.delattr(training, "load_teacher")
    with pytest.raises(MaskingError, match="no mask piece"):
        prepare(recipe(tmp_path / "run", train=train_table(world, objective=[DISTILBERT], **ends)))


def test_a_run_goes_on_with_its_own_teacher_and_text_alone(world: World, tmp_path: Path) -> None:
    """The recipe is the same: it names them by variables."""
    for name in ("teacher", "mono"):
        shutil.copytree(getattr(world, name), tmp_path / name)
    (tmp_path / "mono" / "de.parquet").unlink()
    weights = load_file(tmp_path / "teacher" / "model.safetensors")
    weights["encoder.layer.3.output.dense.bias"] += 0.1
    save_file(weights, tmp_path / "teacher" / "model.safetensors", {"format": "pt"})

    run(recipe(tmp_path / "run", train=train_table(world, steps=4)))
    before = (tmp_path / "run" / CHECKPOINT_FILE).read_bytes()
    longer = train_table(world, steps=6)
    for changes, said in (
        ({"teacher": str(tmp_path / "teacher")}, "another teacher"),
        ({"corpus": [{"path": tmp_path / "mono"}]}, "another text"),
    ):
        with pytest.raises(CheckpointError, match=said):
            run(recipe(tmp_path / "run", train=longer | changes))
    assert (tmp_path / "run" / CHECKPOINT_FILE).read_bytes() == before
    shutil.rmtree(tmp_path / "mono")
    shutil.copytree(world.mono, tmp_path / "mono")  # moved, but the same
    run(recipe(tmp_path / "run", train=longer | {"corpus": [{"path": tmp_path / "mono"}]}))


def test_what_a_launcher_says_of_accumulation_changes_no_gradient(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_norm() -> float:
        ready = prepare(recipe(tmp_path, train=train_table(world)))
        record, _ = next(train(ready, Progress(0, ready.batches.first())))
        return float(record["gradient_norm"])

    expected = first_norm()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert first_norm() == expected


def test_any_weight_tells_an_encoder_from_another(world: World) -> None:
    teacher = load_teacher(str(world.teacher))
    first = fingerprint_of(teacher)
    assert fingerprint_of(load_teacher(str(world.teacher))) == first
    for name in ("embeddings.LayerNorm.bias", "encoder.layer.3.attention.self.query.weight"):
        changed = load_teacher(str(world.teacher))
        with torch.no_grad():
            changed.get_parameter(name).mul_(1.01)
        assert fingerprint_of(changed) != first


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED"])
def test_a_launcher_that_splits_the_student_is_refused(
    monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(RecipeError, match=f"{engine} is not supported: .* launch with torchrun"):
        training.accelerator_of()
