"""The study's matrix as tables, and what it says of when to distil."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from distill.cells import ARMS, Arm, CellResult
from distill.comparison import Scores, mean_scores, summary_of
from distill.report import Figure, figure, markdown
from distill.transfer import Change, change

MARKS = {"up": " ↑", "down": " ↓", "same": ""}
COLUMNS: tuple[Arm, ...] = ("teacher", *ARMS)


@dataclass(frozen=True)
class Matrix:
    """All cells of one teacher and one task."""

    teacher: str
    task: str
    source_language: str
    results: Mapping[Arm, list[CellResult]]
    """A result per seed, in the order of the seeds."""

    def runs(self, arm: Arm) -> list[Scores]:
        """Accuracy by language, of each seed."""
        return [
            {language: right.count("1") / len(right) for language, right in result.hits.items()}
            for result in self.results[arm]
        ]

    def source(self, arm: Arm) -> Figure:
        return figure(summary_of(run, self.source_language).source for run in self.runs(arm))

    def others(self, arm: Arm) -> Figure:
        return figure(summary_of(run, self.source_language).others for run in self.runs(arm))

    def gap(self, arm: Arm) -> Figure:
        return figure(summary_of(run, self.source_language).gap for run in self.runs(arm))

    def languages(self) -> list[str]:
        return list(self.results["none"][0].hits)

    def change(self, arm: Arm, language: str) -> Change:
        """Of one language, from the arm without any KD."""
        before, after = (
            np.array([[mark == "1" for mark in result.hits[language]] for result in results])
            for results in (self.results["none"], self.results[arm])
        )
        return change(before, after)

    def moved(self, arm: Arm) -> dict[str, list[str]]:
        """Direction -> the languages but the source that moved so."""
        found: dict[str, list[str]] = {"up": [], "down": [], "same": []}
        for language in self.languages():
            if language != self.source_language:
                found[self.change(arm, language).direction].append(language)
        return found


def matrix_markdown(matrix: Matrix) -> str:
    """Two tables, by arm and by language, and what they say."""
    return "\n\n".join(
        [
            f"## {matrix.task}, teacher {matrix.teacher}",
            markdown(
                [
                    "KD at",
                    f"source ({matrix.source_language})",
                    "mean of the others",
                    "gap",
                    "others against none",
                    "languages up",
                    "languages down",
                ],
                [_arm_row(matrix, arm) for arm in COLUMNS],
            ),
            markdown(
                ["language", *COLUMNS],
                [_language_row(matrix, language) for language in matrix.languages()],
            ),
            "Mean accuracy ± standard deviation over seeds; ↑ and ↓: moved against `none` by more "
            "than two standard errors over rows and seeds.",
            "\n".join(f"- {line}" for line in findings(matrix)),
        ]
    )


def findings(matrix: Matrix) -> list[str]:
    """What the matrix says of the paper's two findings, in words that the figures decide."""
    none = matrix.others("none").mean
    pre, fine, both = (
        _difference(matrix.others(arm).mean, none)
        for arm in ("pre-training", "fine-tuning", "both")
    )
    stronger = "pre-training" if pre > fine else "fine-tuning"
    down = matrix.moved("fine-tuning")["down"]
    return [
        f"On the mean of the others KD at pre-training gave {pre:+.3f}, at fine-tuning "
        f"{fine:+.3f}, at both {both:+.3f}: {stronger} KD was the stronger of the two.",
        f"Fine-tuning KD by itself {'lowered' if fine < 0 else 'did not lower'} the mean of the "
        f"others; it moved {len(down)} of them down" + (f" ({', '.join(down)})." if down else "."),
    ]


def matrix_json(matrix: Matrix) -> dict[str, object]:
    """Every figure of the tables."""
    return {
        "teacher": matrix.teacher,
        "task": matrix.task,
        "findings": findings(matrix),
        "arms": {
            arm: {
                "source": asdict(matrix.source(arm)),
                "mean_of_the_others": asdict(matrix.others(arm)),
                "gap": asdict(matrix.gap(arm)),
                "scores": mean_scores(matrix.runs(arm)),
                "against_none": {
                    language: _told(matrix.change(arm, language)) for language in matrix.languages()
                },
            }
            for arm in COLUMNS
        },
    }


def _told(change: Change) -> dict[str, object]:
    return {"mean": change.mean, "error": change.error, "direction": change.direction}


def _arm_row(matrix: Matrix, arm: Arm) -> list[str]:
    row = [arm, str(matrix.source(arm)), str(matrix.others(arm)), str(matrix.gap(arm))]
    if arm in ("teacher", "none"):
        return [*row, "", "", ""]
    moved = matrix.moved(arm)
    against = _difference(matrix.others(arm).mean, matrix.others("none").mean)
    return [*row, f"{against:+.3f}", str(len(moved["up"])), str(len(moved["down"]))]


def _language_row(matrix: Matrix, language: str) -> list[str]:
    cells = []
    for arm in COLUMNS:
        mark = "" if arm in ("teacher", "none") else MARKS[matrix.change(arm, language).direction]
        cells.append(str(figure(run[language] for run in matrix.runs(arm))) + mark)
    return [language, *cells]


def _difference(after: float | None, before: float | None) -> float:
    assert after is not None, "a study measures several languages"
    assert before is not None, "a study measures several languages"
    return after - before
