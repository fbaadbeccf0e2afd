"""What a bulk run says on standard error: how far it is, which rows have no answer, and a sum."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import perf_counter
from typing import Any, Self, get_args

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from app.bulk import Answered, Status
from app.files import Reader

MOST_NAMED = 20
"""Rows named per kind of trouble. All are counted, and each has its status in the output."""


@dataclass(frozen=True)
class Pace:
    """How fast it goes and when it will be done, from what was answered since the start."""

    rows: int
    share: float | None
    """Of the bytes that were to be read; None where nobody knows how many those are."""
    seconds: float

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def left_s(self) -> float | None:
        """None where nobody can tell."""
        return self.seconds * (1 - self.share) / self.share if self.share else None

    def __str__(self) -> str:
        left = "" if self.left_s is None else f", {timedelta(seconds=round(self.left_s))} left"
        return f"{self.rows_per_s:,.0f} rows/s{left}"


class Progress:
    """A bar while a person watches, and lines that stay for what went wrong."""

    def __init__(self, reader: Reader, counts: Counter[str], *, max_tokens: int, bar: bool) -> None:
        """`counts` are the rows by status, as they are written; the reader is past those so far."""
        self._counts = counts
        self._done_before = counts.total()
        self._named = Counter[str]()
        self._max_tokens = max_tokens
        self._begun_at = perf_counter()
        self._begun_bytes = reader.read_bytes
        self._total_bytes = reader.total_bytes
        console = Console(file=sys.stderr, soft_wrap=True, markup=False, highlight=False)
        self._bar = Bar(
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[said]}"),
            console=console,
            disable=not (bar and console.is_terminal),
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("", total=reader.total_bytes, said="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.stop()

    def add(self, answered: Sequence[Answered]) -> None:
        """Show that these rows are written, and name those without an answer."""
        for each in answered:
            if each.result is None and self._named[each.status] < MOST_NAMED:
                self._named[each.status] += 1
                last = self._named[each.status] == MOST_NAMED
                more = "; further ones are only counted" if last else ""
                self._bar.console.print(self.trouble(each) + more)
        if not answered:
            return
        answered_bytes = answered[-1].row.read_bytes  # the reader is ahead of the answers
        said = f"{self._counts.total():,} rows, {self.pace(answered_bytes)}"
        self._bar.update(self._task, completed=answered_bytes, said=said)

    def pace(self, answered_bytes: int | None = None) -> Pace:
        """Since the start of this run; of all, where no bytes are given."""
        share = None
        if answered_bytes is not None and self._total_bytes:
            to_do = self._total_bytes - self._begun_bytes
            share = (answered_bytes - self._begun_bytes) / to_do if to_do else None
        rows = self._counts.total() - self._done_before
        return Pace(rows, share, perf_counter() - self._begun_at)

    def summary(self) -> str:
        """One line: `1,200 rows: 1,198 ok, 2 blank`."""
        each = ", ".join(f"{count:,} {status}" for status, count in self._counts.items())
        total = self._counts.total()
        return f"{total:,} row{'' if total == 1 else 's'}" + (f": {each}" if each else "")

    def figures(self) -> dict[str, Any]:
        """The same for machines; rows of earlier runs are counted, and their time is not."""
        pace = self.pace()
        return {
            "rows": self._counts.total(),
            **{status: self._counts[status] for status in get_args(Status)},
            "answered_before": self._done_before,
            "seconds": round(pace.seconds, 3),
            "rows_per_s": round(pace.rows_per_s, 1),
        }

    def trouble(self, each: Answered) -> str:
        """Why this row has no answer."""
        place = f"{each.row.file} row {each.row.number}"
        if each.status == "blank":
            return f"{place} is blank"
        if each.status == "unreadable":
            return f"{place} is unreadable: {each.row.problem}"
        characters = f"{len(each.row.text):,} characters"
        limit = f"more than the {self._max_tokens} tokens this model reads"
        return f"{place} is too long: {characters}, {limit}; see --truncate"
