"""The objectives a run can have, one table each; a recipe lists one or several.

`weight` is that of the whole entry and multiplies the weight of each of its terms; terms of
weight 0 are not computed. Every term is a mean over tokens, pairs of tokens or texts, so that
weights mean the same whatever the batch.
"""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from distill.tables.table import Share, Table

Projection = Literal["none", "learned"]
"""How hidden states of the student reach the teacher's width: they are there, or a linear layer
takes them there, which is trained along and thrown away."""

Layers = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
"""Layers counted from 1, their vectors side by side."""


class WeightedTable(Table):
    weight: PositiveFloat


class LightmbertTable(WeightedTable):
    """The last layer's attention and hidden states."""

    kind: Literal["lightmbert"]
    attention: Literal["scores", "probabilities"]
    """Compared before the softmax, or after it."""
    attention_weight: NonNegativeFloat
    hidden_weight: NonNegativeFloat
    projection: Projection


class TinybertTable(WeightedTable):
    """Attention scores and hidden states layer by layer, embeddings included."""

    kind: Literal["tinybert"]
    attention_weight: NonNegativeFloat
    hidden_weight: NonNegativeFloat
    prediction_weight: NonNegativeFloat
    """Of the soft cross-entropy over pieces."""
    prediction_temperature: PositiveFloat
    projection: Projection
    teacher_layers: tuple[PositiveInt, ...] | None = None
    """The teacher layer that each student layer answers to; every k-th if not given."""


class DistilbertTable(WeightedTable):
    """The masked-language head's answers, the masked pieces, and the last hidden state's direction."""

    kind: Literal["distilbert"]
    temperature: PositiveFloat
    tokens: Literal["masked", "real"]
    """Where logits are compared: at masked pieces, or at all real ones."""
    pieces_weight: NonNegativeFloat
    masked_language_weight: NonNegativeFloat
    direction_weight: NonNegativeFloat


class Minilm1Table(WeightedTable):
    """Attention distributions and value relations, head by head."""

    kind: Literal["minilm"]
    version: Literal[1]
    teacher_layer: PositiveInt
    """Which teacher layer the student's last one answers to."""
    attention_weight: NonNegativeFloat
    values_weight: NonNegativeFloat


class Minilm2Table(WeightedTable):
    """Relations among queries, among keys and among values, in heads of its own."""

    kind: Literal["minilm"]
    version: Literal[2]
    teacher_layer: PositiveInt
    """Which teacher layer the student's last one answers to."""
    relation_heads: PositiveInt
    """Heads that both widths are cut into anew; they must divide both."""
    queries_weight: NonNegativeFloat
    keys_weight: NonNegativeFloat
    values_weight: NonNegativeFloat


class CodirTable(WeightedTable):
    """A student's text must be told from other texts by the teacher's representation of it."""

    kind: Literal["codir"]
    loss: Literal["infonce", "nce"]
    pooling: Literal["mean", "first"]
    """A layer's vector of a text: mean over real tokens, or its first token."""
    student_layers: Layers
    teacher_layers: Layers
    dimensions: PositiveInt
    """Of the space both sides are projected to."""
    temperature: PositiveFloat
    negatives: PositiveInt
    """Other texts that each text is told from; all there are, where they are fewer."""
    same_language: Share
    """Share of them in the text's own language, where it has as many."""
    queue: NonNegativeInt
    """Texts of earlier batches that are kept as negatives."""


class SentenceTable(WeightedTable):
    """Distance to the teacher's embedding of the English text, and telling texts apart."""

    kind: Literal["sentence"]
    distance_weight: NonNegativeFloat
    contrastive_weight: NonNegativeFloat
    contrastive_temperature: PositiveFloat
    english_every: PositiveInt = 1
    """The student reads the English of every so many-th pair, which it knows from the start if it
    was made from the teacher's layers; the teacher reads that of all. The mean over those few weighs
    as much as that over all texts."""


MinilmTable = Minilm1Table | Minilm2Table
ObjectiveTable = (
    LightmbertTable | TinybertTable | DistilbertTable | MinilmTable | CodirTable | SentenceTable
)


def _each_once(tables: tuple[ObjectiveTable, ...]) -> tuple[ObjectiveTable, ...]:
    kinds = [table.kind for table in tables]
    if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        raise ValueError(f"{', '.join(twice)} is listed more than once")
    return tables


Objective = Annotated[
    LightmbertTable
    | TinybertTable
    | DistilbertTable
    | Annotated[MinilmTable, Field(discriminator="version")]
    | CodirTable
    | SentenceTable,
    Field(discriminator="kind"),
]
Objectives = Annotated[tuple[Objective, ...], Field(min_length=1), AfterValidator(_each_once)]
"""`[[train.objective]]`: one of a kind each, their weighted terms summed."""
