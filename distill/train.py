"""Verb: train a student against a teacher, as the recipe's `[train]` table says.

    lightmbert distill train distill/recipes/mini-4-student.toml

Started again, the same command goes on from the last checkpoint. On several GPUs, or on several
machines that share the run's folder, a launcher starts it once for each:

    torchrun --nproc-per-node 8 -m app.cli distill train RECIPE
    accelerate launch --multi_gpu -m app.cli distill train RECIPE
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.progress import track
from torch import Tensor

from distill.agreement import agreement
from distill.checkpoint import (
    CheckpointError,
    Progress,
    is_saved,
    load_checkpoint,
    save_checkpoint,
    save_encoder,
    stand_of,
)
from distill.config import LoadedRecipe, require
from distill.records import Records
from distill.run_page import is_due, write_page
from distill.schedule import schedule
from distill.teacher import tokenizer_file
from distill.training import Run, prepare
from distill.watch import Watch, check_finite

Record = Mapping[str, Tensor | float | int]
Numbers = dict[str, float | int]


def run(loaded: LoadedRecipe) -> None:
    """Train to the end of the recipe; leave the student in `folder/encoder`, a page in `report`."""
    table, folder = require(loaded.recipe.train, "train"), loaded.recipe.run.folder
    training = prepare(loaded)
    alone, accelerator = training.accelerator.is_main_process, training.accelerator
    progress = start = resumed(training, folder, loaded.sha256)
    records = _records(folder, training, start) if alone else None
    with records or nullcontext():
        watch = Watch(table, records.former if records else [])
        steps = train(training, start)
        for record, progress in track(
            steps, "train", total=table.steps - start.step, disable=not alone
        ):
            step = progress.step
            recording = step % table.record_every_steps == 0
            saving = step % table.checkpoint_every_steps == 0 or step == table.steps
            # reading a number waits for the device, so it is not done at every step
            numbers = measured(averaged(record, accelerator)) if recording or saving else {}
            if recording and records:
                records.write(numbers)
                watch.see(numbers)
            if saving:
                save(training, loaded, progress)
    if alone:
        finish(training, loaded, progress)
    accelerator.wait_for_everyone()


def train(run: Run, start: Progress) -> Iterator[tuple[Record, Progress]]:
    """Yield (record, progress) for each step from `start` to the recipe's last.

    A step's gradient is the mean over `accumulation_steps` batches of every process, each batch
    counting alike.
    """
    table, accelerator, parts = run.table, run.accelerator, run.table.accumulation_steps
    batches = run.batches.since(start.cursor)
    began, tokens = time.monotonic(), start.tokens
    for step in range(start.step, table.steps):
        run.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for part in range(parts):
            cursor, batch = next(batches)
            last = part == parts - 1
            # gradients are exchanged once a step, with its last batch
            with nullcontext() if last else accelerator.no_sync(run.model):
                losses = run.model(batch.to(accelerator.device))
                total = torch.stack(
                    [run.losses.weights[name] * loss for name, loss in losses.items()]
                ).sum()
                # not accelerate's own, which divides by what its launcher was told as well
                (total / parts).backward()
            tokens += batch.padded_tokens
            for name, loss in {"loss": total, **losses}.items():
                sums[name] = sums.get(name, 0) + loss.detach() / parts

        scale = schedule(step, table)
        for group in run.optimizer.param_groups:
            group["lr"] = scale * group["peak_learning_rate"]
        norm = accelerator.clip_grad_norm_(run.trained, table.max_gradient_norm)
        run.optimizer.step()

        record = {
            "step": step + 1,
            **sums,
            "gradient_norm": norm,
            "learning_rate_scale": scale,
            "tokens": tokens,
            "tokens_per_s": (tokens - start.tokens) / (time.monotonic() - began),
        }
        yield record, Progress(step + 1, cursor, tokens)


def averaged(record: Record, accelerator: Accelerator) -> Record:
    """The record over all processes: mean of its losses, sum of its tokens."""
    if accelerator.num_processes == 1:
        return record
    values = torch.tensor([float(value) for value in record.values()], dtype=torch.float64)
    means = accelerator.reduce(values.to(accelerator.device), "mean")
    summed = {"tokens", "tokens_per_s"}
    return {
        name: mean * accelerator.num_processes if name in summed else mean
        for name, mean in zip(record, means, strict=True)
    } | {"step": record["step"]}


def measured(record: Record) -> Numbers:
    """The record as plain numbers.

    Raises:
        DivergedError: one of them is not finite.
    """
    numbers = {k: v.item() if isinstance(v, Tensor) else v for k, v in record.items()}
    check_finite(numbers)
    return numbers


def resumed(training: Run, folder: Path, recipe_sha256: str) -> Progress:
    """Where the run goes on: restored from its checkpoint, or at the beginning.

    Raises:
        CheckpointError: see `load_checkpoint`; or processes found different checkpoints.
    """
    found = load_checkpoint(
        folder,
        training.losses,
        training.optimizer,
        recipe_sha256=recipe_sha256,
        inputs=training.inputs,
        share=training.share,
    )
    steps = gather_object([found.step if found else 0])
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"processes found checkpoints of steps {', '.join(map(str, steps))}: {folder} must be "
            "storage that all machines share"
        )
    return found or Progress(0, training.batches.first())


def save(training: Run, loaded: LoadedRecipe, progress: Progress) -> None:
    """Write a checkpoint of all processes, and the run's page as it looks by now."""
    stands = gather_object([stand_of(progress)])
    if not training.accelerator.is_main_process:
        return
    folder = loaded.recipe.run.folder
    save_checkpoint(
        folder,
        training.losses,
        training.optimizer,
        stands,
        recipe_sha256=loaded.sha256,
        inputs=training.inputs,
    )
    if is_due(loaded):
        write_page(loaded, fingerprint=training.fingerprint)


def finish(training: Run, loaded: LoadedRecipe, progress: Progress) -> None:
    """Write the student, and the run's page with how far it agrees with its teacher."""
    table, folder = training.table, loaded.recipe.run.folder
    # a run that was finished before may have been given heads since
    if not is_saved(folder / "encoder", training.student):
        save_encoder(
            folder / "encoder",
            training.student,
            tokenizer_file(table.start),
            provenance={"teacher": _told(table.teacher), "data_fingerprint": training.fingerprint},
        )
    apart = training.batches.apart(progress.cursor).to(training.accelerator.device)
    agrees = agreement(training.student, training.losses.teacher, apart)
    write_page(loaded, fingerprint=training.fingerprint, agreement=agrees)


def _records(folder: Path, training: Run, start: Progress) -> Records:
    return Records(folder, steps_done=start.step, tensorboard=training.table.tensorboard)


def _told(encoder: str) -> str:
    """The encoder's name as others are told: where it lies on this machine means nothing there."""
    return Path(encoder).name if Path(encoder).is_absolute() else encoder
