"""The loss of one step of fine-tuning: labels, soft labels, and what is dropped on the way."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from app.runtime.calibration import Problem
from distill.anatomy import Encoder
from distill.classifier import Classifier, Read, inputs_of
from distill.finetuning import Rows, hard_loss
from distill.regularizers import FeatureDrop, LayerDrop, kept_positions, r_drop_loss
from distill.tables.finetune import DropTable
from distill.task_kd import SoftLoss, beside_zero

NOTHING = DropTable(
    layer_drop=0.0, feature_drop=0.0, data_drop=0.0, keep_whole=1.0, r_drop_weight=0.0
)


class TaskLoss:
    """hard_weight * cross-entropy + soft loss + r_drop_weight * R-Drop.

    With R-Drop every text is read twice, and the cross-entropy is the mean of both; the soft loss
    is of the first.
    """

    def __init__(
        self,
        rows: Rows,
        problem: Problem,
        *,
        drop: DropTable | None,
        hard_weight: float,
        soft: SoftLoss | None,
        seed: int,
    ) -> None:
        self._texts, self._targets = rows.texts, torch.from_numpy(rows.targets)
        self._problem, self._drop = problem, drop or NOTHING
        self._hard_weight, self._soft = hard_weight, soft
        self._random = np.random.default_rng([seed, len(rows.texts)])

    def __call__(self, classifier: Classifier, rows: Sequence[int], step: int) -> Tensor:
        """The loss of those rows, a scalar."""
        targets = self._targets[list(rows)].to(classifier.device)
        logits = self._logits(classifier, rows)
        hard = hard_loss(logits, targets, self._problem)
        loss = logits.new_zeros(())
        if self._drop.r_drop_weight:
            again = self._logits(classifier, rows)
            hard = (hard + hard_loss(again, targets, self._problem)) / 2
            loss = self._drop.r_drop_weight * self._apart(logits, again)
        if self._soft is not None:
            loss = loss + self._soft(classifier, logits, rows, step)
        return loss + self._hard_weight * hard

    def _logits(self, classifier: Classifier, rows: Sequence[int]) -> Tensor:
        texts = [self._thinned(self._texts[row]) for row in rows]
        unit = classifier.embed(inputs_of(texts).to(classifier.device))
        # UniDrop's FD-4: what the classifier reads
        return classifier.logits(functional.dropout(unit, self._drop.feature_drop))

    def _thinned(self, text: Read) -> Read:
        if not self._drop.data_drop:
            return text
        kept = kept_positions(
            len(text.ids),
            probability=self._drop.data_drop,
            keep_whole=self._drop.keep_whole,
            random=self._random,
            always=text.framing,
        )
        return Read([text.ids[at] for at in kept], [text.segments[at] for at in kept], [])

    def _apart(self, logits: Tensor, again: Tensor) -> Tensor:
        if self._problem == "multi":
            return r_drop_loss(beside_zero(logits), beside_zero(again))
        return r_drop_loss(logits, again)


@contextmanager
def dropping(encoder: Encoder, drop: DropTable | None) -> Iterator[None]:
    """Let layers and features of an encoder drop while it trains inside."""
    drop = drop or NOTHING
    with ExitStack() as installed:
        if drop.layer_drop:
            installed.enter_context(LayerDrop(encoder, drop.layer_drop))
        if drop.feature_drop:
            installed.enter_context(FeatureDrop(encoder, drop.feature_drop))
        yield
