"""What a run leaves on disk: encoder folders, and checkpoints it can go on from exactly.

Everything is written beside its place and then renamed, so that a killed run leaves what was
there before or what it wrote, whole. Tensors are safetensors: no pickle is ever read.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from app.errors import LightMBERTError
from distill.batches import Cursor

CHECKPOINT_FILE = "checkpoint.safetensors"
PROVENANCE_FILE = "provenance.json"


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


def save_encoder(
    folder: Path,
    encoder: PreTrainedModel,
    tokenizer_file: Path,
    *,
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write config.json, model.safetensors, tokenizer.json and, if given, provenance.json.

    A folder that was there is replaced whole, with the heads it had: they were another
    encoder's. A folder cannot be replaced in one step; killed in between, both lie beside it.
    """
    partial, former = (folder.with_name(folder.name + end) for end in (".partial", ".former"))
    shutil.rmtree(partial, ignore_errors=True)
    encoder.save_pretrained(partial, safe_serialization=True)
    shutil.copyfile(tokenizer_file, partial / "tokenizer.json")
    if provenance is not None:
        (partial / PROVENANCE_FILE).write_text(json.dumps(provenance), encoding="utf-8")
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        folder.rename(former)
    partial.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


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
        CheckpointError: the checkpoint is damaged, or was written by another recipe.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        written_by, progress = metadata["recipe_sha256"], json.loads(metadata["progress"])
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path} is no checkpoint: {error!r}") from error
    if written_by != recipe_sha256:
        raise CheckpointError(
            f"{path} was written by another recipe (sha256 {written_by[:12]}, "
            f"this one {recipe_sha256[:12]}); remove {folder} or name another run folder"
        )
    student.load_state_dict(_stripped(tensors, "student."))
    _restore_optimizer(optimizer, _stripped(tensors, "optimizer."))
    torch.set_rng_state(tensors["random_state"])
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
