"""What a request comes to, whatever contract it came by."""

from dataclasses import dataclass

from app.forward import Usage
from app.postprocess import Ranking
from app.runtime.outputs import Floats


@dataclass(frozen=True, eq=False)
class Embedded:
    vectors: Floats
    """(B, D)"""
    usage: Usage


@dataclass(frozen=True, eq=False)
class Classified:
    task: str
    ranking: Ranking
    usage: Usage

    @property
    def labels(self) -> tuple[str, ...]:
        return self.ranking.labels

    @property
    def scores(self) -> Floats:
        """(B, C), in the order of `labels`."""
        return self.ranking.scores
