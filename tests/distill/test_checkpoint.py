import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_world import World
from torch import nn
from transformers import BertModel

from distill.batches import Cursor
from distill.checkpoint import (
    CHECKPOINT_FILE,
    CheckpointError,
    Progress,
    is_saved,
    load_checkpoint,
    read_provenance,
    save_checkpoint,
    save_encoder,
    stand_of,
)
from distill.teacher import load_encoder

RECIPE = "a" * 64


class Killed(BaseException):
    """The run ends here, and no `except Exception` may hide it."""


def killed(*_: object) -> None:
    raise Killed


def a_student(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A student one step into its training, so that its optimizer has something to keep."""
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.1, fused=True)
    student(torch.randn(2, 3)).square().sum().backward()
    optimizer.step()
    return student, optimizer


def state(student: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    moments = {
        f"{index}.{name}": tensor
        for index, kept in optimizer.state_dict()["state"].items()
        for name, tensor in kept.items()
    }
    return {**student.state_dict(), **moments}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def save(folder: Path, seed: int, progress: Progress) -> dict[str, torch.Tensor]:
    student, optimizer = a_student(seed)
    save_checkpoint(folder, student, optimizer, [stand_of(progress)], recipe_sha256=RECIPE)
    return {name: tensor.clone() for name, tensor in state(student, optimizer).items()}


def test_what_is_saved_is_restored_exactly(tmp_path: Path) -> None:
    saved = save(tmp_path / "run", 1, Progress(7, Cursor(2, 3)))
    expected = torch.rand(4)  # the random state goes on where it was when the checkpoint was saved
    student, optimizer = a_student(2)
    torch.manual_seed(9)
    progress = load_checkpoint(tmp_path / "run", student, optimizer, recipe_sha256=RECIPE)
    assert progress == Progress(7, Cursor(2, 3))
    assert_same(state(student, optimizer), saved)
    assert torch.equal(torch.rand(4), expected)


def test_a_restored_optimizer_takes_the_same_next_step(tmp_path: Path) -> None:
    students = [a_student(1), a_student(2)]
    save_checkpoint(tmp_path, *students[0], [stand_of(Progress(1, Cursor()))], recipe_sha256=RECIPE)
    load_checkpoint(tmp_path, *students[1], recipe_sha256=RECIPE)
    for student, optimizer in students:
        optimizer.zero_grad()
        student(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    assert_same(state(*students[0]), state(*students[1]))


def test_a_folder_without_a_checkpoint_starts_from_nothing(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert load_checkpoint(folder, *a_student(1), recipe_sha256=RECIPE) is None


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, Progress(7, Cursor()))
    student, optimizer = a_student(2)
    before = {name: tensor.clone() for name, tensor in state(student, optimizer).items()}
    with pytest.raises(CheckpointError, match=r"aaaaaaaaaaaa, this one bbbbbbbbbbbb.*remove"):
        load_checkpoint(tmp_path, student, optimizer, recipe_sha256="b" * 64)
    assert_same(state(student, optimizer), before)


def test_a_checkpoint_from_other_inputs_is_refused(tmp_path: Path) -> None:
    stands, made_of = [stand_of(Progress(7, Cursor()))], {"text": "f1a9", "teacher": "0c44"}
    save_checkpoint(tmp_path, *a_student(1), stands, recipe_sha256=RECIPE, inputs=made_of)
    student, optimizer = a_student(2)
    before = {name: tensor.clone() for name, tensor in state(student, optimizer).items()}
    with pytest.raises(CheckpointError, match=r"another teacher \(fingerprint 0c44, now beef\)"):
        load_checkpoint(
            tmp_path, student, optimizer, recipe_sha256=RECIPE, inputs=made_of | {"teacher": "beef"}
        )
    assert_same(state(student, optimizer), before)
    assert load_checkpoint(
        tmp_path, student, optimizer, recipe_sha256=RECIPE, inputs=made_of
    ) == Progress(7, Cursor())


def test_an_encoder_is_known_again_by_its_weights(
    world: World, encoders: tuple[BertModel, BertModel], tmp_path: Path
) -> None:
    folder, (encoder, other) = tmp_path / "encoder", encoders
    assert not is_saved(folder, encoder)
    save_encoder(folder, encoder, world.teacher / "tokenizer.json")
    assert is_saved(folder, encoder)
    assert not is_saved(folder, other)
    with torch.no_grad():
        encoder.encoder.layer[3].output.dense.bias[0] += 1e-6
    assert not is_saved(folder, encoder)
    (folder / "model.safetensors").write_bytes(b"half a")
    assert not is_saved(folder, encoder)


@pytest.mark.parametrize("damage", ["cut short", "empty", "another file"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 1, Progress(7, Cursor()))
    path = tmp_path / CHECKPOINT_FILE
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=rf"{CHECKPOINT_FILE} is no checkpoint"):
        load_checkpoint(tmp_path, *a_student(2), recipe_sha256=RECIPE)


def test_killed_before_the_rename_the_old_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = save(tmp_path, 1, Progress(7, Cursor()))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            save(tmp_path, 2, Progress(8, Cursor()))
    assert len(list(tmp_path.iterdir())) == 2
    student, optimizer = a_student(3)
    assert load_checkpoint(tmp_path, student, optimizer, recipe_sha256=RECIPE) == Progress(
        7, Cursor()
    )
    assert_same(state(student, optimizer), old)
    new = save(tmp_path, 2, Progress(8, Cursor()))
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_FILE]
    load_checkpoint(tmp_path, student, optimizer, recipe_sha256=RECIPE)
    assert_same(state(student, optimizer), new)


def test_killed_while_writing_the_old_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, Progress(7, Cursor()))

    def half_written(_: object, path: Path, __: object) -> None:
        path.write_bytes(b"half a check")
        raise Killed

    monkeypatch.setattr("distill.checkpoint.save_file", half_written)
    with pytest.raises(Killed):
        save(tmp_path, 2, Progress(8, Cursor()))
    with safe_open(tmp_path / CHECKPOINT_FILE, "pt") as file:
        assert json.loads(file.metadata()["progress"])[0]["step"] == 7


@pytest.fixture
def encoders(world: World) -> tuple[BertModel, BertModel]:
    return load_encoder(str(world.teacher)), load_encoder(str(world.teacher), layers=1)


def layers_of(folder: Path) -> int:
    return int(load_encoder(str(folder)).config.num_hidden_layers)


def test_an_encoder_folder_is_replaced_whole(
    world: World, encoders: tuple[BertModel, BertModel], tmp_path: Path
) -> None:
    folder, tokenizer = tmp_path / "encoder", world.teacher / "tokenizer.json"
    save_encoder(folder, encoders[0], tokenizer, provenance={"teacher": "t"})
    assert json.loads((folder / "provenance.json").read_text()) == {"teacher": "t"}
    assert (folder / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    (folder / "heads").mkdir()
    save_encoder(folder, encoders[1], tokenizer)
    assert layers_of(folder) == 1
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


@pytest.mark.parametrize("moves", [0, 1])
def test_killed_in_between_an_encoder_is_still_there(
    world: World,
    encoders: tuple[BertModel, BertModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moves: int,
) -> None:
    folder, tokenizer = tmp_path / "encoder", world.teacher / "tokenizer.json"
    save_encoder(folder, encoders[0], tokenizer)
    rename, done = Path.rename, []

    def killed_after(path: Path, target: Path) -> Path:
        if len(done) == moves:
            raise Killed
        done.append(path)
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed_after)
        with pytest.raises(Killed):
            save_encoder(folder, encoders[1], tokenizer)
    kept = folder if moves == 0 else tmp_path / "encoder.former"
    assert layers_of(kept) == 4
    assert layers_of(tmp_path / "encoder.partial") == 1
    save_encoder(folder, encoders[1], tokenizer)
    assert layers_of(folder) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_an_encoder_that_does_not_fit_leaves_the_former_one(
    world: World,
    encoders: tuple[BertModel, BertModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, tokenizer = tmp_path / "encoder", world.teacher / "tokenizer.json"
    save_encoder(folder, encoders[0], tokenizer)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distill.checkpoint.shutil.copyfile", full)
    with pytest.raises(CheckpointError, match=r"encoder cannot be written: .*No space left"):
        save_encoder(folder, encoders[1], tokenizer)
    assert layers_of(folder) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_who_says_nothing_of_where_it_comes_from_has_no_provenance(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) is None


@pytest.mark.parametrize("broken", ["{", "[1]", '{"teacher": 3}', ""])
def test_a_provenance_that_cannot_be_read_is_named(tmp_path: Path, broken: str) -> None:
    (tmp_path / "provenance.json").write_text(broken)
    with pytest.raises(CheckpointError, match=r"provenance\.json does not say where"):
        read_provenance(tmp_path)
