"""The objectives a run can have, one table each."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from distill.tables.table import Table


class LightmbertTable(Table):
    """Weights of the two terms of LightMBERT's objective."""

    kind: Literal["lightmbert"]
    attention_weight: NonNegativeFloat
    hidden_weight: NonNegativeFloat


class SentenceTable(Table):
    """Weights of the sentence objective: distance to the teacher, and telling texts apart."""

    kind: Literal["sentence"]
    distance_weight: NonNegativeFloat
    contrastive_weight: NonNegativeFloat
    contrastive_temperature: PositiveFloat


Objective = Annotated[LightmbertTable | SentenceTable, Field(discriminator="kind")]
