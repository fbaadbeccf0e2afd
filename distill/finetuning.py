"""Fine-tune an encoder with its head, and keep its best epoch on the development rows."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.errors import LightMBERTError
from app.runtime.calibration import Problem
from app.runtime.outputs import Floats
from distill.anatomy import Encoder
from distill.classifier import Classifier, Read
from distill.tables.finetune import ScheduleTable
from distill.task_rows import score

POOL_BATCHES = 16
"""Texts of so many batches are sorted by length together, so that a batch pads little."""


class FinetuneError(LightMBERTError):
    """Fine-tuning cannot begin, or its numbers are no longer finite."""

    code = "finetune_failed"


@dataclass(frozen=True)
class Rows:
    """Texts as the encoder reads them, and what each should give."""

    texts: list[Read]
    targets: Floats
    """(N, C) of 0 and 1."""


@dataclass(frozen=True)
class Epoch:
    """How one epoch went."""

    number: int
    """From 1."""
    loss: float
    """Mean over its steps."""
    score: float
    """On the development rows: accuracy, or micro-F1 at a threshold of 0.5."""
    development_loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """The higher, the better; of equal scores the smaller loss."""
        return self.score, -self.development_loss


@dataclass(frozen=True)
class Fitted:
    """What fine-tuning left; the classifier itself is at the best epoch."""

    epochs: list[Epoch]
    best: Epoch
    development_logits: Floats
    """(N, C) of the best epoch."""


class StepLoss(Protocol):
    """What one step of training makes smaller."""

    def __call__(self, classifier: Classifier, rows: Sequence[int], step: int) -> Tensor:
        """The loss of those training rows, a scalar."""


def hard_loss(logits: Tensor, targets: Tensor, problem: Problem) -> Tensor:
    """Cross-entropy over labels, or over each label by itself, of (B, C); a mean."""
    if problem == "single":
        return functional.cross_entropy(logits, targets)
    return functional.binary_cross_entropy_with_logits(logits, targets)


def fine_tune(
    classifier: Classifier,
    step_loss: StepLoss,
    development: Rows,
    table: ScheduleTable,
    *,
    problem: Problem,
    train_texts: Sequence[Read],
    seed: int,
) -> Fitted:
    """Train for all epochs and put the classifier back to its best one.

    Raises:
        FinetuneError: a loss is not finite.
    """
    steps_per_epoch = -(-len(train_texts) // table.batch_texts)
    total = steps_per_epoch * table.epochs
    optimizer, schedule = optimizer_of(
        classifier.encoder,
        classifier.head,
        table,
        learning_rate=table.learning_rate,
        total_steps=total,
    )
    autocast = autocast_of(classifier, table)
    epochs: list[Epoch] = []
    kept: dict[str, Tensor] = {}
    best_logits = np.empty(0, dtype=np.float32)
    for number in range(1, table.epochs + 1):
        classifier.train()
        lengths = [len(text.ids) for text in train_texts]
        losses = []
        order = batches(lengths, table.batch_texts, seed=seed, epoch=number)
        for position, rows in enumerate(order):
            with autocast():
                loss = step_loss(classifier, rows, (number - 1) * steps_per_epoch + position)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(classifier.parameters(), table.max_gradient_norm)
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        epoch, logits = _judged(classifier, development, problem, number, torch.stack(losses))
        if not epochs or epoch.rank > max(each.rank for each in epochs):
            best_logits = logits
            kept = {n: t.detach().clone() for n, t in classifier.state_dict().items()}
        epochs.append(epoch)
    classifier.load_state_dict(kept)
    classifier.eval()
    best = max(epochs, key=lambda epoch: (epoch.rank, -epoch.number))
    return Fitted(epochs, best, best_logits)


def batches(
    lengths: Sequence[int], batch_texts: int, *, seed: int, epoch: int
) -> Iterator[list[int]]:
    """Row numbers of every batch of an epoch, texts of like length together, in random order."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    pool = batch_texts * POOL_BATCHES
    found: list[list[int]] = []
    for start in range(0, len(order), pool):
        sorted_rows = sorted(order[start : start + pool].tolist(), key=lambda row: lengths[row])
        found += [
            sorted_rows[first : first + batch_texts]
            for first in range(0, len(sorted_rows), batch_texts)
        ]
    for position in rng.permutation(len(found)):
        yield found[position]


def _judged(
    classifier: Classifier, rows: Rows, problem: Problem, number: int, losses: Tensor
) -> tuple[Epoch, Floats]:
    loss = float(losses.mean())
    if not math.isfinite(loss):
        raise FinetuneError(
            f"epoch {number}: the loss is {loss}; a lower learning rate may help, or fp32"
        )
    logits = classifier.all_logits(rows.texts)
    development_loss = hard_loss(
        torch.from_numpy(logits), torch.from_numpy(rows.targets), problem
    ).item()
    return Epoch(number, loss, score(logits, rows.targets, problem), development_loss), logits


def optimizer_of(
    encoder: Encoder,
    head: nn.Module,
    table: ScheduleTable,
    *,
    learning_rate: float,
    total_steps: int,
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW: matrices of the encoder, its vectors (no decay), the head (its own rate)."""
    body = [p for p in encoder.parameters() if p.requires_grad]
    groups = [
        ([p for p in body if p.ndim >= 2], learning_rate, table.weight_decay),
        ([p for p in body if p.ndim < 2], learning_rate, 0.0),
        (list(head.parameters()), table.head_learning_rate, 0.0),
    ]
    optimizer = torch.optim.AdamW(
        [{"params": p, "lr": rate, "weight_decay": decay} for p, rate, decay in groups if p]
    )
    warmup = max(1, round(table.warmup_share * total_steps))

    def share(step: int) -> float:
        return min((step + 1) / warmup, (total_steps - step) / max(1, total_steps - warmup + 1))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def autocast_of(
    classifier: Classifier, table: ScheduleTable
) -> Callable[[], AbstractContextManager[None]]:
    if table.precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(classifier.device.type, torch.bfloat16)
