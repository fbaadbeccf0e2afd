"""Verb: train a student against a teacher, as the recipe's `[train]` table says.

    lightmbert distill train distill/recipes/mini-4-student.toml

Started again, the same command goes on from the last checkpoint.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import orjson
import torch
from rich.progress import track
from torch import Tensor, nn
from transformers import BertModel

from distill.batches import Batches, Cursor, load_tokenizer
from distill.checkpoint import Progress, load_checkpoint, save_checkpoint, save_encoder
from distill.config import LoadedRecipe, RecipeError, require
from distill.corpus import load_corpus
from distill.losses import LightmbertLosses, SentenceLosses
from distill.records import Records
from distill.student import student_of
from distill.tables import SentenceTable, TrainTable
from distill.teacher import load_teacher, tokenizer_file, vocabularies_agree


@dataclass(frozen=True)
class Run:
    """All that a loop needs, built once from the recipe."""

    table: TrainTable
    student: BertModel
    optimizer: torch.optim.Optimizer
    losses: LightmbertLosses | SentenceLosses
    batches: Batches
    device: torch.device


def run(loaded: LoadedRecipe) -> None:
    """Train to the end of the recipe and write `folder/encoder`."""
    table, folder = require(loaded.recipe.train, "train"), loaded.recipe.run.folder
    training, fingerprint = prepare(loaded)
    progress = load_checkpoint(
        folder, training.student, training.optimizer, recipe_sha256=loaded.sha256
    )
    start = progress or Progress(0, Cursor())
    with Records(folder) as records:
        steps = train(training, start)
        for record, progress in track(steps, "train", total=table.steps - start.step):
            if progress.step % table.record_every_steps == 0:
                # .item() waits for the device, so it is asked for here and not at every step
                records.write(
                    {k: v.item() if isinstance(v, Tensor) else v for k, v in record.items()}
                )
            if progress.step % table.checkpoint_every_steps == 0 or progress.step == table.steps:
                save_checkpoint(
                    folder,
                    training.student,
                    training.optimizer,
                    progress,
                    recipe_sha256=loaded.sha256,
                )
    save_encoder(folder / "encoder", training.student, tokenizer_file(table.start))
    provenance = {"teacher": table.teacher, "data_fingerprint": fingerprint}
    (folder / "encoder" / "provenance.json").write_bytes(orjson.dumps(provenance))


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


def schedule(step: int, table: TrainTable) -> float:
    """Share of the peak learning rate: linear from 0 over the warm-up, then linear to 0."""
    if step < table.warmup_steps:
        return (step + 1) / table.warmup_steps
    return (table.steps - step) / (table.steps - table.warmup_steps)


def prepare(loaded: LoadedRecipe) -> tuple[Run, str]:
    """Build the run and the fingerprint of its data, refusing what cannot work before it starts.

    Raises:
        RecipeError: objective, tokenizers and text do not fit together.
    """
    table, run_table = require(loaded.recipe.train, "train"), loaded.recipe.run
    torch.manual_seed(run_table.seed)
    torch.set_num_threads(run_table.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus = load_corpus(table.corpus, exponent=table.exponent)
    of_student = load_tokenizer(tokenizer_file(table.start), max_tokens=table.max_tokens)
    of_teacher = load_tokenizer(tokenizer_file(table.teacher), max_tokens=table.max_tokens)
    sentence = isinstance(table.objective, SentenceTable)
    if sentence and corpus.english is None:
        raise RecipeError("objective 'sentence' needs parallel text: set pair_column")
    if not sentence and not vocabularies_agree(of_student, of_teacher):
        raise RecipeError("objective 'lightmbert' compares tokens: the vocabularies must agree")
    teacher = load_teacher(table.teacher).to(device)
    student = student_of(
        table.start,
        layers=table.student.layers,
        freeze_embeddings=table.student.freeze_embeddings,
    ).to(device)
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


def losses_of(
    student: BertModel, teacher: BertModel, table: TrainTable, device: torch.device
) -> LightmbertLosses | SentenceLosses:
    """The recipe's objective over these encoders, compiled if the recipe asks for it."""
    autocast = partial(
        torch.autocast, device.type, torch.bfloat16, enabled=table.precision == "bf16"
    )
    if table.compile:
        student.encoder.compile(dynamic=True)
        teacher.encoder.compile(dynamic=True)
    if isinstance(table.objective, SentenceTable):
        return SentenceLosses(student, teacher, table.objective, autocast)
    return LightmbertLosses(student, teacher, table.objective, autocast)


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
