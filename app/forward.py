"""From texts to the rows of the graph's outputs: out of the cache, or tokenized, queued and run."""

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

from app.admission import Terms
from app.cache import Cache, Known
from app.errors import DeadlineExceededError, TextTooLongError
from app.metrics import Metrics
from app.runtime.tokenizer import Encoded, Text, Tokenizer
from app.scheduler import Scheduler
from app.student import Row
from app.texts import characters_in

_QUICK_CHARACTERS = 2_000
"""Tokenized where they are: handing so little to a thread takes longer than the work."""

_PART_TEXTS = 128
"""Handed to the tokenizer's thread at a time: other callers wait for a part, not for thousands."""


@dataclass(frozen=True)
class Usage:
    """What a request cost, and which of its texts were cut."""

    texts: int
    tokens: int
    """As run: special tokens included, after truncation."""
    truncated: tuple[int, ...]
    """Indices of texts of which only the beginning was read."""


@dataclass(frozen=True, eq=False)
class Forwarded:
    rows: list[Row]
    """One per text, in order."""
    usage: Usage


class Forward:
    """Tokenizer, cache and scheduler in a row."""

    def __init__(
        self,
        scheduler: Scheduler[Encoded, Row],
        tokenizer: Tokenizer,
        cache: Cache,
        metrics: Metrics,
    ) -> None:
        self._scheduler = scheduler
        self._tokenizer = tokenizer
        self._cache = cache
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lightmbert-tokenizer")

    async def __call__(self, texts: Sequence[Text], *, truncate: bool, terms: Terms) -> Forwarded:
        """Raises: InputError, OverloadedError, DeadlineExceededError, NotReadyError, InferenceError."""
        began_at = perf_counter()
        found = [self._cache.get(text, truncate=truncate) for text in texts]
        missing = [index for index, known in enumerate(found) if known is None]
        if missing:
            wanted = [texts[index] for index in missing]
            with self._scheduler.hold(len(texts), _bytes(wanted), terms):
                encoded = await self._tokenize(wanted, missing, truncate=truncate)
                rows = await self._rows(encoded, terms, began_at)
            for index, each, row in zip(missing, encoded, rows, strict=True):
                found[index] = known = Known(row, each.tokens, each.truncated)
                self._cache.put(texts[index], known, truncate=truncate)
        return self._forwarded([known for known in found if known is not None])

    async def _rows(self, encoded: list[Encoded], terms: Terms, began_at: float) -> list[Row]:
        """What the model says, within what tokenizing has left of the caller's time."""
        try:
            return await self._scheduler.submit(encoded, _what_is_left(terms, began_at))
        except DeadlineExceededError:
            assert terms.timeout_s is not None, "only such a request expires"
            raise DeadlineExceededError(timeout_s=terms.timeout_s) from None  # all of its time

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _forwarded(self, known: Sequence[Known]) -> Forwarded:
        truncated = tuple(index for index, each in enumerate(known) if each.truncated)
        self._metrics.truncated_texts.inc(len(truncated))
        usage = Usage(len(known), sum(each.tokens for each in known), truncated)
        return Forwarded([each.row for each in known], usage)

    async def _tokenize(
        self, texts: Sequence[Text], places: Sequence[int], *, truncate: bool
    ) -> list[Encoded]:
        """`places` are where these texts stand in the request, for the error that names one."""
        started_at = perf_counter()
        encode = partial(self._tokenizer.encode, truncate=truncate)
        encoded: list[Encoded] = []
        try:
            if characters_in(texts) <= _QUICK_CHARACTERS:
                encoded = encode(texts)
            while len(encoded) < len(texts):
                part = texts[len(encoded) : len(encoded) + _PART_TEXTS]
                loop = asyncio.get_running_loop()
                encoded += await loop.run_in_executor(self._thread, encode, part)
        except TextTooLongError as error:
            raise error.moved(places[len(encoded) + error.index]) from None
        self._metrics.stage_seconds["tokenize"].observe(perf_counter() - started_at)
        return encoded


def _bytes(texts: Sequence[Text]) -> int:
    """As they lie in memory, which takes no time to tell."""
    parts = (part for text in texts for part in ((text,) if isinstance(text, str) else text))
    return sum(map(sys.getsizeof, parts))


def _what_is_left(terms: Terms, began_at: float) -> Terms:
    """The terms after the time that tokenizing took."""
    if terms.timeout_s is None:
        return terms
    left_s = terms.timeout_s - (perf_counter() - began_at)
    if left_s <= 0:
        raise DeadlineExceededError(timeout_s=terms.timeout_s)
    return replace(terms, timeout_s=left_s)
