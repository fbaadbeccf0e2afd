"""From a batch to its losses: run teacher and student, and apply the recipe's objective.

Forward passes run under the recipe's precision; losses are always computed in float32.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from transformers import BertModel

from distill.batches import Batch
from distill.objectives.lightmbert import attention_score_loss, hidden_state_loss
from distill.objectives.sentence import contrastive_loss, distance_loss
from distill.tables.objectives import LightmbertTable, SentenceTable
from distill.taps import QueryKeyTap
from distill.teacher import encode

Losses = dict[str, Tensor]
Autocast = Callable[[], AbstractContextManager[None]]


class LightmbertLosses:
    """Last-layer attention scores and hidden states of student against teacher.

    The two may differ in depth, not in width, heads or vocabulary.
    """

    def __init__(
        self, student: BertModel, teacher: BertModel, table: LightmbertTable, autocast: Autocast
    ) -> None:
        self._student, self._teacher, self._autocast = student, teacher, autocast
        self._student_tap, self._teacher_tap = QueryKeyTap(student), QueryKeyTap(teacher)
        self.weights = {"attention": table.attention_weight, "hidden": table.hidden_weight}

    def __call__(self, batch: Batch) -> Losses:
        with torch.inference_mode(), self._autocast():
            target = encode(self._teacher, batch.text)
        with self._autocast():
            answer = encode(self._student, batch.text)
        mask = batch.text.mask
        return {
            "attention": attention_score_loss(
                self._student_tap.take(), self._teacher_tap.take(), mask
            ),
            "hidden": hidden_state_loss(answer.hidden, target.hidden, mask),
        }


class SentenceLosses:
    """Student embeddings of a text and of its English against the teacher's of the English."""

    def __init__(
        self, student: BertModel, teacher: BertModel, table: SentenceTable, autocast: Autocast
    ) -> None:
        self._student, self._teacher, self._autocast = student, teacher, autocast
        self._temperature = table.contrastive_temperature
        self.weights = {
            "distance": table.distance_weight,
            "distance_english": table.distance_weight,
            "contrastive": table.contrastive_weight,
        }

    def __call__(self, batch: Batch) -> Losses:
        assert batch.english is not None, "prepare() refuses text without translations"
        assert batch.teacher_english is not None
        with torch.inference_mode(), self._autocast():
            target = encode(self._teacher, batch.teacher_english).pooled
        with self._autocast():
            text = encode(self._student, batch.text).pooled
            english = encode(self._student, batch.english).pooled
        return {
            "distance": distance_loss(text, target),
            "distance_english": distance_loss(english, target),
            "contrastive": contrastive_loss(text, target, temperature=self._temperature),
        }
