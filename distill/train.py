"""Verb: train a student against a teacher, as the recipe's `[train]` table says.

    lightmbert distill train distill/recipes/mini-4-student.toml

Started again, the same command goes on from the last checkpoint.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertModel

from app.errors import LightMBERTError
from distill.anatomy import anatomy
from distill.batches import Batches, Cursor, load_tokenizer
from distill.checkpoint import Progress, load_checkpoint, save_checkpoint, save_encoder
from distill.config import LoadedRecipe, RecipeError, require
from distill.corpus import load_corpus
from distill.losses import Losses
from distill.matching import match_class, match_of
from distill.records import Records
from distill.student import student_of
from distill.tables.train import TrainTable
from distill.teacher import load_teacher, tokenizer_file, vocabularies_agree


class DivergedError(LightMBERTError):
    """A run's numbers are no longer finite."""

    code = "diverged"


@dataclass(frozen=True)
class Run:
    """All that a loop needs, built once from the recipe."""

    table: TrainTable
    student: BertModel
    optimizer: torch.optim.Optimizer
    losses: Losses
    batches: Batches
    device: torch.device


def run(loaded: LoadedRecipe) -> None:
    """Train to the end of the recipe and write `folder/encoder`."""
    table, folder = require(loaded.recipe.train, "train"), loaded.recipe.run.folder
    training, fingerprint = prepare(loaded)
    student, optimizer = training.student, training.optimizer
    start = load_checkpoint(folder, student, optimizer, recipe_sha256=loaded.sha256)
    start = start or Progress(0, Cursor())
    with Records(folder, steps_done=start.step) as records:
        steps = train(training, start)
        for record, progress in track(steps, "train", total=table.steps - start.step):
            step = progress.step
            recording = step % table.record_every_steps == 0
            saving = step % table.checkpoint_every_steps == 0 or step == table.steps
            # reading a number waits for the device, so it is not done at every step
            numbers = measured(record) if recording or saving else {}
            if recording:
                records.write(numbers)
            if saving:
                save_checkpoint(folder, student, optimizer, progress, recipe_sha256=loaded.sha256)
    save_encoder(
        folder / "encoder",
        student,
        tokenizer_file(table.start),
        provenance={"teacher": _told(table.teacher), "data_fingerprint": fingerprint},
    )


def _told(encoder: str) -> str:
    """The encoder's name as others are told: where it lies on this machine means nothing there."""
    return Path(encoder).name if Path(encoder).is_absolute() else encoder


def train(run: Run, start: Progress) -> Iterator[tuple[dict[str, Tensor | float | int], Progress]]:
    """Yield (record, progress) for each step from `start` to the recipe's last."""
    table = run.table
    batches = run.batches.since(start.cursor)
    began, seen_tokens = time.monotonic(), 0
    for step in range(start.step, table.steps):
        cursor, batch = next(batches)

        losses = run.losses(batch.to(run.device))
        total = torch.stack(
            [run.losses.weights[name] * loss for name, loss in losses.items()]
        ).sum()

        scale = schedule(step, table)
        for group in run.optimizer.param_groups:
            group["lr"] = scale * group["peak_learning_rate"]
        run.optimizer.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(run.student.parameters(), table.max_gradient_norm)
        run.optimizer.step()

        seen_tokens += batch.padded_tokens
        yield (
            {
                "step": step + 1,
                "loss": total.detach(),
                **{name: loss.detach() for name, loss in losses.items()},
                "gradient_norm": norm,
                "learning_rate_scale": scale,
                "tokens_per_s": seen_tokens / (time.monotonic() - began),
            },
            Progress(step + 1, cursor),
        )


def measured(record: Mapping[str, Tensor | float | int]) -> dict[str, float | int]:
    """The record as plain numbers.

    Raises:
        DivergedError: one of them is not finite, and so no later one will be.
    """
    numbers = {k: v.item() if isinstance(v, Tensor) else v for k, v in record.items()}
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise DivergedError(
                f"step {numbers['step']}: {name} is {number}. The last checkpoint is from before; "
                "a lower learning rate may help"
            )
    return numbers


def schedule(step: int, table: TrainTable) -> float:
    """Share of the peak learning rate: linear from 0, level, then linear to 0.

    Without `decay_steps` there is no level part. With it, a run may be lengthened without
    having been slowed down too early (Hu et al. 2024, arXiv:2404.06395, section 4).
    """
    if step < table.warmup_steps:
        return (step + 1) / table.warmup_steps
    decay_steps = table.decay_steps or table.steps - table.warmup_steps
    return min(1.0, (table.steps - step) / decay_steps)


def prepare(loaded: LoadedRecipe) -> tuple[Run, str]:
    """Build the run and the fingerprint of its data, refusing what cannot work before it starts.

    Raises:
        RecipeError: objective, text, tokenizers and encoders do not fit together.
    """
    table, run_table = require(loaded.recipe.train, "train"), loaded.recipe.run
    torch.manual_seed(run_table.seed)
    torch.set_num_threads(run_table.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus = load_corpus(table.corpus, exponent=table.exponent)
    of_student = load_tokenizer(tokenizer_file(table.start), max_tokens=table.max_tokens)
    of_teacher = load_tokenizer(tokenizer_file(table.teacher), max_tokens=table.max_tokens)
    for match in map(match_class, table.objective):
        if match.parallel and corpus.english is None:
            raise RecipeError(f"objective {match.kind!r} needs parallel text: set pair_column")
        if match.same_pieces and not vocabularies_agree(of_student, of_teacher):
            raise RecipeError(
                f"objective {match.kind!r} compares tokens: the vocabularies must agree"
            )
    teacher = load_teacher(table.teacher).to(device)
    student = student_of(
        table.start,
        layers=table.student.layers,
        freeze_embeddings=table.student.freeze_embeddings,
    ).to(device)
    _check_room(table.start, student, of_student, max_tokens=table.max_tokens)
    _check_room(table.teacher, teacher, of_teacher, max_tokens=table.max_tokens)
    return Run(
        table=table,
        student=student,
        optimizer=optimizer_of(student, table),
        losses=losses_of(student, teacher, table, device),
        batches=Batches(
            corpus,
            of_student,
            of_teacher,
            max_batch_tokens=table.max_batch_tokens,
            seed=run_table.seed,
        ),
        device=device,
    ), corpus.fingerprint()


def _check_room(name: str, encoder: BertModel, tokenizer: Tokenizer, *, max_tokens: int) -> None:
    positions, rows = encoder.config.max_position_embeddings, encoder.config.vocab_size
    if max_tokens > positions:
        raise RecipeError(f"max_tokens {max_tokens} exceeds the {positions} positions of {name}")
    if tokenizer.get_vocab_size() > rows:
        raise RecipeError(
            f"the tokenizer of {name} has {tokenizer.get_vocab_size()} pieces, its table {rows} rows"
        )


def losses_of(
    student: BertModel, teacher: BertModel, table: TrainTable, device: torch.device
) -> Losses:
    """The recipe's objectives over these encoders, compiled if the recipe asks for it."""
    autocast = partial(
        torch.autocast, device.type, torch.bfloat16, enabled=table.precision == "bf16"
    )
    if table.compile:
        student.encoder.compile(dynamic=True)
        teacher.encoder.compile(dynamic=True)
    of_student, of_teacher = anatomy(student), anatomy(teacher)
    matches = [match_of(entry, of_student, of_teacher) for entry in table.objective]
    return Losses(student, teacher, matches, autocast).to(device)


def optimizer_of(student: BertModel, table: TrainTable) -> torch.optim.Optimizer:
    """AdamW in three groups: matrices, vectors (biases, norms; no decay), embeddings (own rate)."""
    embeddings = [p for p in student.embeddings.parameters() if p.requires_grad]
    body = list(student.encoder.parameters())
    groups = [
        (embeddings, table.embedding_learning_rate, 0.0),
        ([p for p in body if p.ndim < 2], table.learning_rate, 0.0),
        ([p for p in body if p.ndim >= 2], table.learning_rate, table.weight_decay),
    ]
    return torch.optim.AdamW(
        [
            {"params": params, "peak_learning_rate": rate, "lr": rate, "weight_decay": decay}
            for params, rate, decay in groups
            if params
        ],
        fused=True,
    )
