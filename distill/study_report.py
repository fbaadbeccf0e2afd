"""The study's matrix as tables, and what it says of when to distil."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from distill.cells import ARMS, Arm, CellResult
from distill.comparison import Scores, mean_scores, summary_of
from distill.report import Figure, figure, markdown
from distill.transfer import Change, change, change_of_mean

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
        return change(_right(self.results["none"], language), _right(self.results[arm], language))

    def others_change(self, before: Arm, after: Arm) -> Change:
        """Of the mean of the others.

        Where all languages have as many rows, rows of one number are taken for translations of
        each other, which rise and fall together; else each language has rows of its own.
        """
        first, second = self._others_hits(before), self._others_hits(after)
        if len({right.shape for right in first}) == 1:
            return change(np.mean(first, axis=0), np.mean(second, axis=0))
        return change_of_mean(first, second)

    def _others_hits(self, arm: Arm) -> list[np.ndarray]:
        """(seeds, rows) of each language but the source."""
        return [
            _right(self.results[arm], language)
            for language in self.languages()
            if language != self.source_language
        ]

    def moved(self, arm: Arm) -> dict[str, list[str]]:
        """Direction -> the languages but the source that moved so."""
        found: dict[str, list[str]] = {"up": [], "down": [], "same": []}
        for language in self.languages():
            if language != self.source_language:
                found[self.change(arm, language).direction].append(language)
        return found


def _right(results: list[CellResult], language: str) -> np.ndarray:
    """Whether each row was right, (seeds, rows)."""
    return np.array([[mark == "1" for mark in result.hits[language]] for result in results])


def matrix_markdown(matrix: Matrix) -> str:
    """Two tables, by arm and by language, and what they say."""
    alone = len(matrix.results["none"]) == 1
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
            "Mean accuracy ± standard deviation over seeds; changes ± standard error over rows and "
            "seeds. ↑ and ↓: moved against `none` by more than two standard errors."
            + (" One seed was run: what another would change is in no error." if alone else ""),
            "\n".join(f"- {line}" for line in findings(matrix)),
        ]
    )


def findings(matrix: Matrix) -> list[str]:
    """What the matrix says of the paper's findings, in words that figures and errors decide."""
    against = {arm: matrix.others_change("none", arm) for arm in ARMS if arm != "none"}
    listed = ", ".join(f"at {arm} {_with_error(moved)}" for arm, moved in against.items())
    ahead = matrix.others_change("fine-tuning", "pre-training")
    stronger = {
        "up": "pre-training KD was the stronger",
        "down": "fine-tuning KD was the stronger",
        "same": "neither can be told to be the stronger",
    }
    fine = {"up": "raised", "down": "lowered", "same": "did not move"}
    down = matrix.moved("fine-tuning")["down"]
    return [
        f"Mean of the others against no KD, with its standard error: {listed}.",
        f"Pre-training KD against fine-tuning KD: {_with_error(ahead)}; "
        f"{stronger[ahead.direction]}.",
        f"Fine-tuning KD by itself {fine[against['fine-tuning'].direction]} the mean of the "
        f"others; languages that it moved down: {', '.join(down) or 'none'}.",
    ]


def _with_error(moved: Change) -> str:
    return f"{moved.mean:+.3f} ±{moved.error:.3f}"


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
                "mean_of_the_others_against_none": _told(matrix.others_change("none", arm)),
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
    against = _with_error(matrix.others_change("none", arm))
    return [*row, against, str(len(moved["up"])), str(len(moved["down"]))]


def _language_row(matrix: Matrix, language: str) -> list[str]:
    cells = []
    for arm in COLUMNS:
        mark = "" if arm in ("teacher", "none") else MARKS[matrix.change(arm, language).direction]
        cells.append(str(figure(run[language] for run in matrix.runs(arm))) + mark)
    return [language, *cells]
