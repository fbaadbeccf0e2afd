"""What scores per language say: source against the others, student against teacher, seeds.

A mean over all languages hides the language that fails, so there is none here. The *source*
is the language that heads were trained on, *others* are all the rest.

Retention is told twice: s / t, and (s - c) / (t - c) with c what guessing scores. The first
flatters: of 66.3 % on three labels, 60.8 % is 91.7 %, but 83.3 % of what is better than chance.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

Scores = dict[str, float]
"""Language -> score."""


@dataclass(frozen=True)
class Summary:
    """One system on one benchmark; None where nothing was measured to say it from."""

    source: float | None
    others: float | None
    """Mean of all languages but the source."""
    worst: float | None
    """Lowest of them."""

    @property
    def gap(self) -> float | None:
        """How much the source is ahead of the mean of the others."""
        if self.source is None or self.others is None:
            return None
        return self.source - self.others


def summary_of(scores: Mapping[str, float], source_language: str) -> Summary:
    others = [score for language, score in scores.items() if language != source_language]
    return Summary(
        source=scores.get(source_language),
        others=fmean(others) if others else None,
        worst=min(others, default=None),
    )


def retention(student: float | None, teacher: float | None, *, chance: float = 0) -> float | None:
    """(s - c) / (t - c); with chance 0 the plain ratio.

    None where one of them was not measured, or the teacher is no better than chance: there is
    nothing to retain.
    """
    if student is None or teacher is None or teacher <= chance:
        return None
    return (student - chance) / (teacher - chance)


def mean_scores(runs: Sequence[Scores]) -> Scores:
    """Language by language over runs that measured the same languages."""
    return {language: fmean(run[language] for run in runs) for language in runs[0]}


def spread(values: Iterable[float | None]) -> float | None:
    """Sample standard deviation; None of fewer than two values."""
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) > 1 else None
