"""What a run leaves on disk: encoder folders, and checkpoints it can go on from exactly.

Everything is written beside its place and then renamed, so that a killed run leaves either the
old file or the new one. Tensors are safetensors: no pickle is ever read.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from app.errors import LightMBERTError
from distill.batches import Cursor

CHECKPOINT_FILE = "checkpoint.safetensors"


class CheckpointError(LightMBERTError):
    """A checkpoint cannot be read, or belongs to another recipe."""

    code = "bad_checkpoint"


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int
    """Steps done."""
    cursor: Cursor
    """Where its text goes on."""


def save_encoder(folder: Path, encoder: PreTrainedModel, tokenizer_file: Path) -> None:
    """Write an encoder folder (config.json, model.safetensors, tokenizer.json), replacing it whole."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    encoder.save_pretrained(partial, safe_serialization=True)
    shutil.copy(tokenizer_file, partial / "tokenizer.json")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def save_checkpoint(
    folder: Path,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    *,
    recipe_sha256: str,
) -> None:
    """Write weights, optimizer state, random state and progress as one file."""
    tensors = {f"student.{name}": tensor for name, tensor in student.state_dict().items()}
    tensors |= dict(_optimizer_tensors(optimizer))
    tensors["random_state"] = torch.get_rng_state()
    metadata = {"progress": json.dumps(asdict(progress)), "recipe_sha256": recipe_sha256}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (CHECKPOINT_FILE + ".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)
    partial.replace(folder / CHECKPOINT_FILE)


def load_checkpoint(
    folder: Path, student: nn.Module, optimizer: torch.optim.Optimizer, *, recipe_sha256: str
) -> Progress | None:
    """Restore what `save_checkpoint` wrote; None when the folder holds no checkpoint.

    Raises:
        CheckpointError: the checkpoint was written by another recipe.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata["recipe_sha256"] != recipe_sha256:
            raise CheckpointError(
                f"{path} was written by another recipe (sha256 {metadata['recipe_sha256'][:12]}, "
                f"this one {recipe_sha256[:12]}); remove {folder} or name another run folder"
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    student.load_state_dict(_stripped(tensors, "student."))
    _restore_optimizer(optimizer, _stripped(tensors, "optimizer."))
    torch.set_rng_state(tensors["random_state"])
    progress = json.loads(metadata["progress"])
    return Progress(progress["step"], Cursor(**progress["cursor"]))


def _stripped(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for index, state in optimizer.state_dict()["state"].items():
        for key, tensor in state.items():
            yield f"optimizer.{index}.{key}", tensor


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
