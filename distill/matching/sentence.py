"""Sentence distillation between two encoders, over parallel text."""

from torch import Tensor

from distill.anatomy import Anatomy
from distill.batches import Batch
from distill.matching.match import Match, Refusals, Views, shown
from distill.objectives.sentence import contrastive_loss, distance_loss
from distill.tables.objectives import SentenceTable


class SentenceMatch(Match):
    """Student embeddings of a text and of its English against the teacher's of the English.

    The teacher reads the English in its own tokens, so the two may differ in all but width.
    """

    kind = "sentence"
    student_reads = frozenset({"text", "english"})
    teacher_reads = frozenset({"english"})
    parallel = True
    same_pieces = False
    teacher_pooled = True

    def __init__(self, table: SentenceTable, student: Anatomy, teacher: Anatomy) -> None:
        super().__init__(
            table.weight,
            {
                "distance": table.distance_weight,
                "distance_english": table.distance_weight,
                "contrastive": table.contrastive_weight,
            },
        )
        Refusals(self.kind, student, teacher).width("its embeddings must be as wide")
        self.english_every = table.english_every
        self._temperature = table.contrastive_temperature

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, Tensor]:
        target = shown(teacher.english).pooled
        text, english = shown(student.text).pooled, shown(student.english).pooled
        terms = {}
        if "distance" in self.weights:
            terms["distance"] = distance_loss(text, target)
            terms["distance_english"] = distance_loss(english, target[:: self.english_every])
        if "contrastive" in self.weights:
            terms["contrastive"] = contrastive_loss(text, target, temperature=self._temperature)
        return terms
