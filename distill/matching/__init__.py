"""What joins objectives to encoders: one `Match` per entry of a recipe's objectives."""

from typing import Any

from distill.anatomy import Anatomy
from distill.matching.codir import CodirMatch
from distill.matching.distilbert import DistilbertMatch
from distill.matching.lightmbert import LightmbertMatch
from distill.matching.match import Match, Side, Views
from distill.matching.minilm import MinilmMatch
from distill.matching.sentence import SentenceMatch
from distill.matching.tinybert import TinybertMatch
from distill.tables.objectives import (
    CodirTable,
    DistilbertTable,
    LightmbertTable,
    Minilm1Table,
    Minilm2Table,
    ObjectiveTable,
    SentenceTable,
    TinybertTable,
)

__all__ = ["Match", "Side", "Views", "match_class", "match_of"]


def match_class(table: ObjectiveTable) -> type[Match]:
    """The match of a recipe entry, for what it asks of text and encoders before they load."""
    match: type[Match] = _MATCHES[type(table)]
    return match


def match_of(table: ObjectiveTable, student: Anatomy, teacher: Anatomy) -> Match:
    """Build what a recipe entry asks for.

    Raises:
        RecipeError: it cannot work between these two encoders; the message says why.
    """
    match: Match = _MATCHES[type(table)](table, student, teacher)
    return match


_MATCHES: dict[type, Any] = {  # Any: each match takes its own table
    LightmbertTable: LightmbertMatch,
    TinybertTable: TinybertMatch,
    DistilbertTable: DistilbertMatch,
    Minilm1Table: MinilmMatch,
    Minilm2Table: MinilmMatch,
    CodirTable: CodirMatch,
    SentenceTable: SentenceMatch,
}
