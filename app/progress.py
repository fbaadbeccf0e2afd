"""What a bulk run says on standard error: how far it is, which rows have no answer, and a sum."""

import sys
from collections import Counter
from collections.abc import Sequence
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from app.bulk import Answered, Status
from app.files import Reader

MOST_NAMED = 20
"""Rows named per kind of trouble. All are counted, and each has its status in the output."""


class Progress:
    """A bar while a person watches, and lines that stay for what went wrong."""

    def __init__(self, reader: Reader, *, max_tokens: int, bar: bool) -> None:
        self.counts = Counter[Status]()
        self._reader = reader
        self._max_tokens = max_tokens
        self._started_at = perf_counter()
        console = Console(file=sys.stderr, soft_wrap=True, markup=False, highlight=False)
        self._bar = Bar(
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rows]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (bar and console.is_terminal),
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("", total=reader.total_bytes, rows="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def add(self, answered: Sequence[Answered]) -> None:
        """Count these rows, and name those without an answer."""
        for each in answered:
            self.counts[each.status] += 1
            if each.result is None and self.counts[each.status] <= MOST_NAMED:
                self._bar.console.print(self._trouble(each))
        rate = self.counts.total() / (perf_counter() - self._started_at)
        rows = f"{self.counts.total():,} rows, {rate:,.0f}/s"
        self._bar.update(self._task, completed=self._reader.read_bytes, rows=rows)

    def summary(self) -> str:
        """One line: `1,200 rows: 1,198 ok, 2 blank`."""
        each = ", ".join(f"{count:,} {status}" for status, count in self.counts.items())
        total = self.counts.total()
        return f"{total:,} row{'' if total == 1 else 's'}" + (f": {each}" if each else "")

    def _trouble(self, each: Answered) -> str:
        place = f"{each.row.file} row {each.row.number}"
        more = "; further ones are only counted" if self.counts[each.status] == MOST_NAMED else ""
        if each.status == "blank":
            return f"{place} is blank{more}"
        characters = f"{len(each.row.text):,} characters"
        limit = f"more than the {self._max_tokens} tokens this model reads"
        return f"{place} is too long: {characters}, {limit}; see --truncate{more}"
