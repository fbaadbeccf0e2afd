"""Rows and their unit vectors, on disk: memory holds one block of them, however many there are."""

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
import orjson

from app.files import Row
from app.runtime.outputs import Floats

BLOCK_ROWS = 8_192
"""Read at a time."""


class Shelf:
    """Rows by number, from 0, in temporary files that vanish with it."""

    def __init__(self, *, dimensions: int) -> None:
        self._dimensions = dimensions
        self._vectors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the shelf
        self._rows = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the shelf
        self._places = array("Q", [0])
        """Where each row begins, and the end."""

    def __len__(self) -> int:
        return len(self._places) - 1

    def add(self, rows: Sequence[Row], vectors: Floats) -> None:
        """Put on `rows` with `vectors`, (B, D) float32."""
        self._vectors.seek(0, 2)
        self._vectors.write(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())
        self._rows.seek(0, 2)
        for row in rows:
            written = orjson.dumps([row.file, row.number, row.text])
            self._rows.write(written)
            self._places.append(self._places[-1] + len(written))

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """Each block's first number and its vectors, (up to BLOCK_ROWS, D)."""
        row_bytes = self._dimensions * 4
        for first in range(0, len(self), BLOCK_ROWS):
            self._vectors.seek(first * row_bytes)
            block = np.frombuffer(self._vectors.read(BLOCK_ROWS * row_bytes), dtype=np.float32)
            yield first, block.reshape(-1, self._dimensions)

    def __getitem__(self, number: int) -> Row:
        begin, end = self._places[number], self._places[number + 1]
        self._rows.seek(begin)
        return Row(*orjson.loads(self._rows.read(end - begin)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._vectors.close()
        self._rows.close()
