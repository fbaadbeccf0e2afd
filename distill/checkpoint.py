"""What a run leaves on disk: encoder folders, and checkpoints it can go on from exactly.

Everything is written beside its place and then renamed, so that a killed run leaves what was
there before or what it wrote, whole. Tensors are safetensors: no pickle is ever read.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME

from app.errors import LightMBERTError
from distill.batches import Cursor
from distill.corpus import ALONE, Share

CHECKPOINT_FILE = "checkpoint.safetensors"
PROVENANCE_FILE = "provenance.json"


class CheckpointError(LightMBERTError):
    """A checkpoint cannot be read, or belongs to another recipe."""

    code = "bad_checkpoint"


@dataclass(frozen=True)
class Progress:
    """How far one process has come."""

    step: int
    """Steps done."""
    cursor: Cursor
    """Where its text goes on."""
    tokens: int = 0
    """Padded tokens it has seen."""


@dataclass(frozen=True)
class Stand:
    """What one process of a run needs to go on exactly, beside the weights that all share."""

    progress: Progress
    random: dict[str, Tensor]
    """State of torch's generators: of the CPU, and of the device where that is another."""


def stand_of(progress: Progress) -> Stand:
    """How this process stands now."""
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    return Stand(progress, random)


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

    Raises:
        CheckpointError: it cannot be written, such as when the disk is full; a folder that was
            there is as it was.
    """
    partial, former = (folder.with_name(folder.name + end) for end in (".partial", ".former"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        encoder.save_pretrained(partial, safe_serialization=True)
        shutil.copyfile(tokenizer_file, partial / "tokenizer.json")
        if provenance is not None:
            (partial / PROVENANCE_FILE).write_text(json.dumps(provenance), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"{folder} cannot be written: {error}") from error
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        folder.rename(former)
    partial.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def read_provenance(encoder: str | Path) -> dict[str, str] | None:
    """What `provenance.json` says; None of an encoder that this project did not train.

    Raises:
        CheckpointError: it is no JSON object of strings.
    """
    file = Path(encoder) / PROVENANCE_FILE
    try:
        return TypeAdapter(dict[str, str]).validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise CheckpointError(
            f"{file} does not say where the encoder comes from: {error}"
        ) from error


def is_saved(folder: Path, encoder: PreTrainedModel) -> bool:
    """Whether the folder holds just these weights, as `save_encoder` wrote them."""
    try:
        with safe_open(folder / SAFE_WEIGHTS_NAME, "pt") as file:
            state = encoder.state_dict()
            return set(file.keys()) == state.keys() and all(
                torch.equal(file.get_tensor(name), tensor.cpu()) for name, tensor in state.items()
            )
    except (OSError, SafetensorError):
        return False


def save_checkpoint(
    folder: Path,
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    stands: Sequence[Stand],
    *,
    recipe_sha256: str,
    inputs: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write all parameters and buffers, the optimizer, and how each process stands, as one file.

    `inputs` are fingerprints of what the recipe names and does not hold.

    Raises:
        CheckpointError: it cannot be written; the former checkpoint is still there.
    """
    tensors = {f"trained.{name}": tensor for name, tensor in trained.state_dict().items()}
    tensors |= dict(_optimizer_tensors(optimizer))
    for process, stand in enumerate(stands):
        tensors |= {f"random.{process}.{name}": state for name, state in stand.random.items()}
    progress = json.dumps([asdict(stand.progress) for stand in stands])
    metadata = {
        "progress": progress,
        "recipe_sha256": recipe_sha256,
        "inputs": json.dumps(dict(inputs)),
    }
    path, partial = folder / CHECKPOINT_FILE, folder / (CHECKPOINT_FILE + ".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_through(tensors, partial, metadata)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        former = "the former one is whole" if path.exists() else "there is no former one"
        raise CheckpointError(f"{path} cannot be written: {error}; {former}") from error


def _write_through(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    with path.open("rb+") as file:
        os.fsync(file.fileno())  # or a rename could reach the disk before the bytes do


def load_checkpoint(
    folder: Path,
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    recipe_sha256: str,
    inputs: Mapping[str, str] = MappingProxyType({}),
    share: Share = ALONE,
) -> Progress | None:
    """Restore what `save_checkpoint` wrote; None when the folder holds no checkpoint.

    Raises:
        CheckpointError: the checkpoint is damaged, was written by another recipe, from other
            inputs or by another number of processes.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        written_by, stands = metadata["recipe_sha256"], json.loads(metadata["progress"])
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path} is no checkpoint: {error!r}") from error
    if written_by != recipe_sha256:
        raise CheckpointError(
            f"{path} was written by another recipe (sha256 {written_by[:12]}, "
            f"this one {recipe_sha256[:12]}); remove {folder} or name another run folder"
        )
    for name, known in json.loads(metadata.get("inputs", "{}")).items():
        if inputs.get(name, known) != known:
            raise CheckpointError(
                f"{path} was written with another {name} (fingerprint {known}, now "
                f"{inputs[name]}): the recipe's variables or files are not what they were; put "
                f"them back, remove {folder} or name another run folder"
            )
    if len(stands) != share.processes:
        raise CheckpointError(
            f"{path} was written by {len(stands)} processes, and this run has {share.processes}: "
            "each goes on with its own share of the text"
        )
    trained.load_state_dict(_stripped(tensors, "trained."))
    _restore_optimizer(optimizer, _stripped(tensors, "optimizer."))
    _restore_random(_stripped(tensors, f"random.{share.process}."))
    stand = stands[share.process]
    return Progress(stand["step"], Cursor(**stand["cursor"]), stand["tokens"])


def _restore_random(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


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
