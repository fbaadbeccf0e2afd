"""TinyBERT between two encoders: layer by layer, the embedding block included."""

from torch import Tensor

from distill.anatomy import Anatomy
from distill.batches import Batch
from distill.matching.match import Match, Refusals, Views, shown
from distill.matching.projection import projection
from distill.objectives.lightmbert import attention_score_loss, hidden_state_loss
from distill.objectives.tinybert import every_kth, over_layers, prediction_loss
from distill.tables.objectives import ObjectiveTable, TinybertTable
from distill.taps import View, Wants


class TinybertMatch(Match):
    """Attention scores of each layer, hidden states of each and of the embeddings, and predictions.

    Predictions are the masked-language head's, on text without masks; there is no other head
    while pre-training. One projection serves all layers, as in the public code.
    """

    kind = "tinybert"

    def __init__(self, table: TinybertTable, student: Anatomy, teacher: Anatomy) -> None:
        super().__init__(
            table.weight,
            {
                "attention": table.attention_weight,
                "hidden": table.hidden_weight,
                "prediction": table.prediction_weight,
            },
        )
        refuse = Refusals(self.kind, student, teacher)
        self._temperature = table.prediction_temperature
        self._layers = self._map(table, refuse, student, teacher)
        self._hidden: dict[int, int] = {}
        self._attention: dict[int, int] = {}
        if "hidden" in self.weights:
            self.projection = projection(table.projection, refuse, student, teacher)
            self._hidden = {0: 0} | self._layers
        if "attention" in self.weights:
            refuse.scores()
            # sub-layers of a layered body may have none
            self._attention = {i: self._layers[i] for i in student.attention_layers}
            for of_teacher in self._attention.values():
                refuse.layer(of_teacher)
        predicts = "prediction" in self.weights
        if predicts:
            refuse.pieces()
        self.student_wants, self.teacher_wants = (
            Wants(frozenset(hidden), frozenset(attention), predicts)
            for hidden, attention in (
                (self._hidden.keys(), self._attention.keys()),
                (self._hidden.values(), self._attention.values()),
            )
        )

    @classmethod
    def asks_pieces(cls, table: ObjectiveTable) -> bool:
        """Predictions are the masked-language head's."""
        return isinstance(table, TinybertTable) and table.prediction_weight > 0

    def _map(
        self, table: TinybertTable, refuse: Refusals, student: Anatomy, teacher: Anatomy
    ) -> dict[int, int]:
        """Student layer -> teacher layer."""
        layers = table.teacher_layers
        if layers is None:
            try:
                layers = every_kth(student.depth, teacher.depth)
            except ValueError as error:
                refuse.because(f"compares layer by layer: {error}; set teacher_layers")
        assert layers is not None, "refused above"
        if len(layers) != student.depth:
            refuse.because(
                f"names {len(layers)} teacher layers for {student.depth} layers of the student"
            )
        refuse.depth(layers, "teacher")
        return dict(enumerate(layers, start=1))

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, Tensor]:
        answer, target = shown(student.text), shown(teacher.text)
        terms = {}
        if self._attention:
            terms["attention"] = over_layers(
                [
                    attention_score_loss(answer.attention[i], target.attention[j], answer.mask)
                    for i, j in self._attention.items()
                ]
            )
        if self._hidden:
            terms["hidden"] = over_layers(
                [
                    hidden_state_loss(
                        self.projection(answer.hidden[i]), target.hidden[j], answer.mask
                    )
                    for i, j in self._hidden.items()
                ]
            )
        if "prediction" in self.weights:
            terms["prediction"] = self._prediction(answer, target)
        return terms

    def _prediction(self, answer: View, target: View) -> Tensor:
        assert answer.piece_logits is not None
        assert target.piece_logits is not None
        return prediction_loss(
            answer.piece_logits[answer.mask],
            target.piece_logits[answer.mask],
            temperature=self._temperature,
        )
