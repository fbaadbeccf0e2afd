"""DistilBERT between two encoders with masked-language heads, over masked text."""

from torch import Tensor

from distill.anatomy import Anatomy
from distill.batches import Batch
from distill.masking import NOT_ASKED
from distill.matching.match import Match, Refusals, Views, shown
from distill.objectives.distilbert import direction_loss, masked_language_loss, piece_loss
from distill.tables.objectives import DistilbertTable, ObjectiveTable
from distill.taps import Wants


class DistilbertMatch(Match):
    """Logits over pieces, masked pieces, and the direction of the last hidden state."""

    kind = "distilbert"
    student_reads = teacher_reads = frozenset({"masked"})
    masks_text = True

    def __init__(self, table: DistilbertTable, student: Anatomy, teacher: Anatomy) -> None:
        super().__init__(
            table.weight,
            {
                "pieces": table.pieces_weight,
                "masked_language": table.masked_language_weight,
                "direction": table.direction_weight,
            },
        )
        refuse = Refusals(self.kind, student, teacher)
        if "direction" in self.weights:
            refuse.width("set direction_weight = 0.0")
        self._temperature, self._tokens = table.temperature, table.tokens
        if self.asks_pieces(table):
            refuse.pieces()
            self.student_wants = Wants(pieces=True)
            self.teacher_wants = Wants(pieces="pieces" in self.weights)

    @classmethod
    def asks_pieces(cls, table: ObjectiveTable) -> bool:
        """All but the direction are about logits over pieces."""
        return isinstance(table, DistilbertTable) and (
            table.pieces_weight > 0 or table.masked_language_weight > 0
        )

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, Tensor]:
        answer, target = shown(student.masked), shown(teacher.masked)
        assert batch.masked is not None
        labels, logits = batch.masked.labels, answer.piece_logits
        terms = {}
        if "pieces" in self.weights:
            assert logits is not None
            assert target.piece_logits is not None
            asked = labels != NOT_ASKED if self._tokens == "masked" else answer.mask
            terms["pieces"] = piece_loss(
                logits, target.piece_logits, asked, temperature=self._temperature
            )
        if "masked_language" in self.weights:
            assert logits is not None
            terms["masked_language"] = masked_language_loss(logits, labels)
        if "direction" in self.weights:
            terms["direction"] = direction_loss(answer.last_hidden, target.last_hidden, answer.mask)
        return terms
