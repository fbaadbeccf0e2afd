"""MiniLM between two encoders: the student's last attention against one layer of the teacher."""

from torch import Tensor

from distill.anatomy import Anatomy
from distill.batches import Batch
from distill.matching.match import Match, Refusals, Views, shown
from distill.objectives.minilm import attention_transfer_loss, relation_loss
from distill.tables.objectives import Minilm1Table, Minilm2Table, MinilmTable
from distill.taps import Wants


class MinilmMatch(Match):
    """Relations between tokens, by version 1 or 2.

    The teacher's layer is its last in version 1 and for base-sized teachers; of large ones an
    upper middle layer, such as 21 of 24, was found to teach better (version 2, section 4).
    """

    kind = "minilm"

    def __init__(self, table: MinilmTable, student: Anatomy, teacher: Anatomy) -> None:
        super().__init__(table.weight, _terms(table))
        refuse = Refusals(self.kind, student, teacher)
        refuse.attention()
        refuse.layer(table.teacher_layer)
        self._student_layer = student.attention_layers[-1]
        self._teacher_layer = table.teacher_layer
        self._heads: int | None = None
        if isinstance(table, Minilm2Table):
            self._heads = table.relation_heads
            refuse.uneven(table.relation_heads)
        elif "attention" in self.weights:
            refuse.scores()
        else:
            refuse.heads()
        self.student_wants = Wants(attention=frozenset({self._student_layer}))
        self.teacher_wants = Wants(attention=frozenset({self._teacher_layer}))

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, Tensor]:
        mask = shown(student.text).mask
        answer = shown(student.text).attention[self._student_layer]
        target = shown(teacher.text).attention[self._teacher_layer]
        terms = {}
        if "attention" in self.weights:
            terms["attention"] = attention_transfer_loss(answer, target, mask)
        for name, part in (("queries", "query"), ("keys", "key"), ("values", "value")):
            if name in self.weights:
                pair = getattr(answer, part), getattr(target, part)
                terms[name] = relation_loss(*pair, mask, heads=self._heads)
        return terms


def _terms(table: MinilmTable) -> dict[str, float]:
    if isinstance(table, Minilm1Table):
        return {"attention": table.attention_weight, "values": table.values_weight}
    return {
        "queries": table.queries_weight,
        "keys": table.keys_weight,
        "values": table.values_weight,
    }
