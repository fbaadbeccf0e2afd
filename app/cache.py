"""Results of texts that may be asked again: exact, bounded in bytes, the least recently used go.

The key is the model (its revision and the hash of its file), the text or pair, and whether it may
be truncated and at which end. The value is every output of the graph for that text, so embeddings,
all tasks and all their parameters are served by one entry, and none of them is part of the key.
"""

import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from app.metrics import Metrics
from app.runtime.outputs import Floats
from app.runtime.tokenizer import Cut, Text

_ENTRY_BYTES = 512
"""Of the mapping's own for one entry: its link, its slot, a tuple and two small objects."""

_Key = tuple[str, Text, Cut | None]


@dataclass(frozen=True, eq=False, slots=True)
class Known:
    """What one text gave, and what it cost when it was run."""

    row: dict[str, Floats]
    tokens: int
    truncated: bool


class Cache:
    """Of `max_bytes` in all, keys and overhead included; 0 turns it off."""

    def __init__(self, metrics: Metrics, *, model: str, max_bytes: int) -> None:
        self.bytes = 0
        self._model = model
        self._max_bytes = max_bytes
        self._entries: OrderedDict[_Key, tuple[Known, int]] = OrderedDict()
        self._hits = metrics.cached_texts.labels("hit")
        self._misses = metrics.cached_texts.labels("miss")
        self._shown_bytes = metrics.cache_bytes  # of all caches, so each adds and takes its own

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def on(self) -> bool:
        return self._max_bytes > 0

    def get(self, text: Text, cut: Cut | None) -> Known | None:
        """What is known of the text, which has been used just now; `cut` is None where it must
        not be truncated.
        """
        if not self.on:
            return None
        key = (self._model, text, cut)
        entry = self._entries.get(key)
        if entry is None:
            self._misses.inc()
            return None
        self._hits.inc()
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, text: Text, cut: Cut | None, known: Known) -> None:
        """Keep a copy: a row is a view, and would keep its whole batch alive."""
        if not self.on:
            return
        row = {name: array.copy() for name, array in known.row.items()}
        size = _size(text, row)
        if size > self._max_bytes:
            return
        key = (self._model, text, cut)
        self._drop(key)
        self._entries[key] = Known(row, known.tokens, known.truncated), size
        self._grow(size)
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Know nothing any more."""
        self._entries.clear()
        self._grow(-self.bytes)

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._grow(-entry[1])

    def _grow(self, size: int) -> None:
        self.bytes += size
        self._shown_bytes.inc(size)


def _size(text: Text, row: dict[str, Floats]) -> int:
    parts: tuple[Any, ...] = (text,) if isinstance(text, str) else (text, *text)
    return _ENTRY_BYTES + sum(map(sys.getsizeof, (*parts, row, *row.values())))
