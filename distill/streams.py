"""Text too large to hold: read while training goes on, a block at a time, and never whole.

Each language of each table is read from its beginning to its end and then again, its files in
another order. A block takes from each language as many rows as chance gives it, by
(seed, number) and with probability ~ rows ** exponent, and mixes them: the block is the buffer
that rows are shuffled in. Where a stream stands (file, row, round) is a short text that lies in
checkpoints; resuming opens the file it names and goes on at the row.

Every process of a run reads its own share: whole files where they divide evenly, otherwise
every so-manieth row.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill.corpus import ALONE, Rows, Share, Text, a_line, is_parallel, load_corpus
from distill.reading import CorpusError, Source, open_hub, require_columns, sources_of
from distill.tables.text import CorpusTable

BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv", ".txt": "text"}


def open_text(tables: Sequence[CorpusTable], *, exponent: float, share: Share = ALONE) -> Text:
    """A corpus in memory, or a stream if the tables say so.

    Raises:
        CorpusError: see `load_corpus`; tables of both kinds; a streamed language of unknown size.
    """
    kinds = {table.streaming for table in tables}
    if len(kinds) > 1:
        raise CorpusError("text in memory and streaming text cannot be mixed in one run")
    if True not in kinds:
        return load_corpus(tables, exponent=exponent)
    is_parallel(tables)
    feeds = [Feed(source, table, share) for table in tables for source in sources_of(table)]
    return Stream(feeds, exponent=exponent)


@dataclass
class Feed:
    """Rows of one language of one table, without end."""

    source: Source
    table: CorpusTable
    share: Share
    _dataset: Any = field(init=False)
    _rows: Iterator[dict[str, Any]] | None = field(init=False, default=None)
    _state: dict[str, Any] | None = field(init=False, default=None)
    _round: int = field(init=False, default=0)
    _found_in_round: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        from datasets.distributed import split_dataset_by_node

        dataset = open_hub(self.source) if self.source.hub else _open_files(self.source)
        self.rows_told = _rows_told(dataset, self.source, self.table)
        if self.table.max_rows is not None:
            dataset = dataset.take(self.table.max_rows)
        self._dataset = split_dataset_by_node(
            dataset, rank=self.share.process, world_size=self.share.processes
        )

    def next(self) -> tuple[str, str]:
        """The next text and its translation, if there is one; rows that lack a side are left out.

        Raises:
            CorpusError: the source cannot be read, lacks a column, or holds no text at all.
        """
        while True:
            row = self._next_row()
            texts = [row[column] for column in self.table.columns]
            if all(text is not None and str(text).strip() for text in texts):
                self._found_in_round = True
                return str(texts[0]), str(texts[1]) if len(texts) > 1 else ""

    def _next_row(self) -> dict[str, Any]:
        for _ in range(2):
            row = self._read()
            if row is not None:
                require_columns(row, self.table.columns, self.source)
                return row
            if not self._found_in_round:
                raise CorpusError(
                    f"no text in {self.source} for process {self.share.process + 1} of "
                    f"{self.share.processes}"
                )
            self.go_to({"round": self._round + 1, "found": False, "state": None})
        raise AssertionError("a round that found text finds it again")

    def _read(self) -> dict[str, Any] | None:
        try:
            if self._rows is None:
                self._rows = iter(self._dataset)
            return next(self._rows, None)
        except (OSError, ValueError) as error:
            raise CorpusError(f"{self.source} cannot be read: {error}") from error

    def place(self) -> dict[str, Any]:
        """Round, and where in it the next row lies, as JSON can hold it."""
        state = self._state if self._rows is None else self._dataset.state_dict()
        return {"round": self._round, "found": self._found_in_round, "state": state}

    def go_to(self, place: dict[str, Any]) -> None:
        self._round, self._found_in_round = place["round"], place["found"]
        self._dataset.set_epoch(self._round)  # beyond the first it reads the files in another order
        if place["state"] is not None:
            self._dataset.load_state_dict(place["state"])
        self._rows, self._state = None, place["state"]


class Stream:
    """Text of many languages that is read on with each draw, see the module."""

    parallel: bool

    def __init__(self, feeds: Sequence[Feed], *, exponent: float) -> None:
        self._feeds = list(feeds)
        self.parallel = is_parallel([feed.table for feed in feeds])
        self.languages = tuple(sorted({feed.source.language for feed in feeds}))
        self._weights = _weights(feeds, exponent)

    def draw(self, number: int, *, rows: int, seed: int) -> Rows:
        """Read on by so many rows; which languages they are of is up to (seed, number)."""
        rng = np.random.default_rng([seed, number])
        counts = rng.multinomial(rows, self._weights)
        drawn: list[tuple[str, str, int]] = []
        for feed, count in zip(self._feeds, counts, strict=True):
            code = self.languages.index(feed.source.language)
            for _ in range(count):
                text, english = feed.next()
                if feed.table.take == "line":
                    text = a_line(text, rng.random())
                drawn.append((text, english, code))
        drawn = [drawn[index] for index in rng.permutation(len(drawn))]
        texts, english_texts, codes = zip(*drawn, strict=True)
        return Rows(
            list(texts),
            list(english_texts) if self.parallel else [],
            list(codes),
        )

    def place(self) -> str:
        """Where every feed stands, as JSON."""
        return json.dumps([feed.place() for feed in self._feeds])

    def go_to(self, place: str) -> None:
        if place:
            for feed, feed_place in zip(self._feeds, json.loads(place), strict=True):
                feed.go_to(feed_place)

    def fingerprint(self) -> str:
        """Short hash of what is read: names, configurations, splits and sizes, not texts."""
        named = [
            [
                _named(source.hub) or [file.name for file in source.files],
                [source.config, source.split, source.language],
                feed.rows_told,
            ]
            for feed in self._feeds
            for source in [feed.source]
        ]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]


def _named(hub: str | None) -> str | None:
    """A hub id as it is; of a local folder its name alone, for that may lie anywhere."""
    return Path(hub).name if hub and Path(hub).is_dir() else hub


def _open_files(source: Source) -> Any:  # noqa: ANN401 - datasets brings no types
    import datasets

    for file in source.files:
        if not file.is_file():
            raise CorpusError(f"{file} does not exist")
    suffixes = {file.suffix for file in source.files}
    unknown = sorted(suffixes - set(BUILDERS))
    if unknown or len(suffixes) > 1:
        raise CorpusError(
            f"{source} is of kind {', '.join(sorted(suffixes))}; a stream reads files of one kind "
            f"of {', '.join(BUILDERS)}"
        )
    try:
        return datasets.load_dataset(
            BUILDERS[suffixes.pop()],
            data_files=[str(file) for file in source.files],
            split="train",
            streaming=True,
        )
    except (OSError, ValueError) as error:
        raise CorpusError(f"{source} cannot be read: {error}") from error


def _rows_told(dataset: Any, source: Source, table: CorpusTable) -> int | None:  # noqa: ANN401
    """Rows of a language: by the recipe, or else by the dataset's own description."""
    told = (table.rows_by_language or {}).get(source.language)
    splits = dataset.info.splits or {}
    if told is None and source.split in splits:
        told = splits[source.split].num_examples or None
    return min(told, table.max_rows) if told and table.max_rows else told


def _weights(feeds: Sequence[Feed], exponent: float) -> np.ndarray:
    """Probability of each feed: of its language, and within it in proportion to its rows."""
    unknown = sorted({feed.source.language for feed in feeds if feed.rows_told is None})
    if unknown and (exponent > 0 or len(feeds) > len({feed.source.language for feed in feeds})):
        raise CorpusError(
            f"nobody says how many rows there are of: {', '.join(unknown)}; "
            "set rows_by_language, or exponent = 0 for languages of equal weight"
        )
    rows = np.array([float(feed.rows_told or 1) for feed in feeds])
    languages = np.array([feed.source.language for feed in feeds])
    weights = np.empty(len(feeds))
    for language in np.unique(languages):
        members = languages == language
        total = rows[members].sum()
        weights[members] = total**exponent * rows[members] / total
    return np.asarray(weights / weights.sum())
