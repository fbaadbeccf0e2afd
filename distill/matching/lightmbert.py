"""LightMBERT between two encoders: their last layers."""

from torch import Tensor

from distill.anatomy import Anatomy
from distill.batches import Batch
from distill.matching.match import Match, Refusals, Views, shown
from distill.matching.projection import projection
from distill.objectives.lightmbert import (
    attention_probability_loss,
    attention_score_loss,
    hidden_state_loss,
)
from distill.tables.objectives import LightmbertTable
from distill.taps import Wants


class LightmbertMatch(Match):
    """Attention of the last layer that has any, and the last hidden state."""

    kind = "lightmbert"

    def __init__(self, table: LightmbertTable, student: Anatomy, teacher: Anatomy) -> None:
        super().__init__(
            table.weight, {"attention": table.attention_weight, "hidden": table.hidden_weight}
        )
        refuse = Refusals(self.kind, student, teacher)
        if "hidden" in self.weights:
            self.projection = projection(table.projection, refuse, student, teacher)
        if "attention" in self.weights:
            refuse.scores()
            self._student_layer = student.attention_layers[-1]
            self._teacher_layer = teacher.attention_layers[-1]
            self.student_wants = Wants(attention=frozenset({self._student_layer}))
            self.teacher_wants = Wants(attention=frozenset({self._teacher_layer}))
        self._attention_loss = (
            attention_score_loss if table.attention == "scores" else attention_probability_loss
        )

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, Tensor]:
        answer, target = shown(student.text), shown(teacher.text)
        terms = {}
        if "attention" in self.weights:
            terms["attention"] = self._attention_loss(
                answer.attention[self._student_layer],
                target.attention[self._teacher_layer],
                answer.mask,
            )
        if "hidden" in self.weights:
            projected = self.projection(answer.last_hidden)
            terms["hidden"] = hidden_state_loss(projected, target.last_hidden, answer.mask)
        return terms
