"""Texts that mean the same, in whatever languages: the nearest to a query, and pairs in a pile.

Both read their rows once, in parts, and compare each part with what lies on a shelf on disk.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from app.files import Row
from app.runtime.outputs import Floats
from app.shelf import Shelf

PART_ROWS = 2_048
"""Compared at a time: enough that the shelf is read seldom, and little beside a block of it."""

Rows = np.ndarray[tuple[int, ...], np.dtype[np.object_]]

Vector = tuple[Row, Floats]
"""A row and its unit vector, (D,)."""


@dataclass(frozen=True, slots=True)
class Match:
    """Two rows and the cosine of the angle between them."""

    score: float
    query: Row
    found: Row


def nearest(queries: Shelf, rows: Iterable[Vector], *, top_k: int) -> Iterator[list[Match]]:
    """For each query in its order, the `top_k` rows nearest to it, the best first.

    Memory holds `top_k` rows for each query, and a part of `rows`. Of equals the earlier comes first.
    """
    scores = np.full((len(queries), top_k), -np.inf, dtype=np.float32)
    best = np.full((len(queries), top_k), None, dtype=object)
    for part, vectors in _parts(rows):
        for first, block in queries.blocks():
            new = block @ vectors.T  # (block, part)
            mine = slice(first, first + len(block))
            better = np.flatnonzero(new.max(axis=1) > scores[mine, -1])
            places = better + first
            merged = _merged(scores[places], best[places], new[better], part)
            scores[places], best[places] = merged
    for number in range(len(queries)):
        query = queries[number]
        yield [
            Match(float(score), query, row)
            for score, row in zip(scores[number], best[number], strict=True)
            if row is not None
        ]


def duplicates(rows: Iterable[Vector], shelf: Shelf, *, threshold: float) -> Iterator[Match]:
    """Pairs of rows at least so near, as the second of each is read; `shelf` is empty, and filled."""
    for part, vectors in _parts(rows):
        begun = len(shelf)
        shelf.add(part, vectors)
        found: list[tuple[int, int, float]] = []
        for first, block in shelf.blocks():
            scores = vectors @ block.T  # (part, block)
            for late, early in np.argwhere(scores >= threshold):
                if first + early < begun + late:
                    found.append((late, first + early, float(scores[late, early])))
        for late, earlier, score in sorted(found):
            yield Match(score, shelf[earlier], part[late])


def _parts(rows: Iterable[Vector]) -> Iterator[tuple[list[Row], Floats]]:
    iterator = iter(rows)
    while part := list(islice(iterator, PART_ROWS)):
        yield [row for row, _ in part], np.stack([vector for _, vector in part])


def _merged(scores: Floats, best: Rows, new: Floats, part: list[Row]) -> tuple[Floats, Rows]:
    """The best of those so far, (Q, K), and of a part's scores, (Q, P); sorted, and stable."""
    rows = np.empty(len(part), dtype=object)
    rows[:] = part
    top_k = scores.shape[1]
    few = np.sort(np.argsort(-new, axis=1, kind="stable")[:, :top_k], axis=1)
    all_scores = np.concatenate([scores, np.take_along_axis(new, few, axis=1)], axis=1)
    all_rows = np.concatenate([best, rows[few]], axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(all_scores, order, axis=1), np.take_along_axis(
        all_rows, order, axis=1
    )
