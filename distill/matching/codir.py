"""CoDIR between two encoders: representations of texts, told apart from a queue of others."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.anatomy import Anatomy
from distill.batches import Batch
from distill.matching.identity import identities, of_one_meaning
from distill.matching.match import Match, Refusals, Views, shown
from distill.matching.projection import Learned
from distill.matching.queue import NOBODY, Entries, Queue, from_all
from distill.objectives import at_least_float32
from distill.objectives.codir import (
    Negatives,
    choose_negatives,
    info_nce_loss,
    log_mean_of,
    nce_loss,
)
from distill.tables.objectives import CodirTable
from distill.taps import View, Wants

Sides = tuple[Tensor, Tensor, Tensor, Negatives]
"""Anchors, positives, candidates, and which of these are negatives."""


class CodirMatch(Match):
    """Anchors are the teacher's; by the noise-contrastive form also the student's, both halved."""

    kind = "codir"

    def __init__(self, table: CodirTable, student: Anatomy, teacher: Anatomy) -> None:
        super().__init__(table.weight, {"contrast": 1.0})
        refuse = Refusals(self.kind, student, teacher)
        refuse.depth(table.student_layers, "student")
        refuse.depth(table.teacher_layers, "teacher")
        self.student_wants = Wants(hidden=frozenset(table.student_layers))
        self.teacher_wants = Wants(hidden=frozenset(table.teacher_layers))
        self.student_projection = Learned(
            student.width * len(table.student_layers), table.dimensions
        )
        self.teacher_projection = Learned(
            teacher.width * len(table.teacher_layers), table.dimensions
        )
        self.queue = Queue(table.queue, table.dimensions)
        self.log_mean: Tensor
        self.register_buffer("log_mean", torch.full((2,), torch.nan))
        self._settled = False
        self._table = table

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, Tensor]:
        """The term; while training, the batch then joins the queue."""
        answer, target = shown(student.text), shown(teacher.text)
        of_text, of_teacher = self._table.student_layers, self._table.teacher_layers
        entries = Entries(
            F.normalize(self.student_projection(self.told(answer, of_text)), dim=-1),
            F.normalize(self.teacher_projection(self.told(target, of_teacher)), dim=-1),
            batch.languages,
            identities(batch),
        )
        candidates = self.queue.after(entries)
        forbidden = of_one_meaning(entries.identities, candidates.identities)
        negatives = choose_negatives(
            entries.languages,
            candidates.languages,
            forbidden | (candidates.languages == NOBODY),
            count=self._table.negatives,
            same_language=self._table.same_language,
        )
        loss = self._loss(entries, candidates, negatives)
        if self.training:
            self.queue.push(entries)
        return {"contrast": loss}

    def told(self, view: View, layers: tuple[int, ...]) -> Tensor:
        """What a view tells of each text: its layers side by side, (B, layers x H)."""
        hidden = torch.stack([at_least_float32(view.hidden[layer]) for layer in layers], dim=1)
        if self._table.pooling == "first":
            return hidden[:, :, 0].flatten(1)
        real = view.mask[:, None, :, None]  # (B, 1, T, 1)
        return (hidden.where(real, 0.0).sum(2) / real.sum(2)).flatten(1)

    def _loss(self, texts: Entries, candidates: Entries, negatives: Negatives) -> Tensor:
        temperature = self._table.temperature
        from_teacher = texts.teacher, texts.student, candidates.student, negatives
        if self._table.loss == "infonce":
            return info_nce_loss(*from_teacher, temperature=temperature)
        from_student = texts.student, texts.teacher, candidates.teacher, negatives
        both = (from_teacher, from_student)
        halves = [
            nce_loss(*sides, temperature=temperature, log_mean=log_mean)
            for sides, log_mean in zip(both, self._log_means(both), strict=True)
        ]
        return torch.stack(halves).mean()

    def _log_means(self, both: Sequence[Sides]) -> Tensor:
        """Log of the mean similarity of each direction, (2,): the first batch's, of all processes."""
        if not self._settled and self.log_mean.isnan().any():  # asked once: it waits for the device
            temperature = self._table.temperature
            found = torch.stack([log_mean_of(*sides, temperature=temperature) for sides in both])
            found = from_all(found[None]).mean(0)
            if not self.training:
                return found
            self.log_mean.copy_(found)
        self._settled = True
        return self.log_mean.clone()
