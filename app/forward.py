"""From texts to the rows of the graph's outputs: out of the cache, or tokenized, queued and run."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TypeVar

from app.admission import Terms
from app.cache import Cache, Known
from app.errors import DeadlineExceededError, NotReadyError, TextTooLongError
from app.metrics import PRIORITIES, Metrics
from app.runtime.tokenizer import Cut, Encoded, Text, Tokenizer
from app.scheduler import Scheduler
from app.student import Row
from app.texts import characters_in

ResultT = TypeVar("ResultT")

_QUICK_CHARACTERS = 2_000
"""Tokenized where they are: handing so little to a thread takes longer than the work."""

_QUICK_TEXTS = 32
"""A text costs something however short it is."""

_PART_TEXTS = 128
"""Handed to a tokenizer's thread at a time: other callers wait for a part, not for thousands."""

_CHARACTERS_PER_TOKEN = 2
"""Most scripts have more. A class is chosen by this before tokenizing, and kept."""


@dataclass(frozen=True)
class Usage:
    """What a request cost, and which of its texts were cut."""

    texts: int
    tokens: int
    """As run: special tokens included, after truncation."""
    truncated: tuple[int, ...]
    """Indices of texts of which only the beginning was read."""


def together(parts: Sequence[Usage]) -> Usage:
    """The usage of several requests as of one whose texts are all of theirs."""
    truncated: list[int] = []
    texts = 0
    for part in parts:
        truncated += [texts + index for index in part.truncated]
        texts += part.texts
    return Usage(texts, sum(part.tokens for part in parts), tuple(truncated))


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
        self._threads = {
            each: ThreadPoolExecutor(1, thread_name_prefix=f"lightmbert-tokenizer-{each}")
            for each in PRIORITIES
        }
        self._stopped: str | None = None

    async def __call__(
        self,
        texts: Sequence[Text],
        *,
        truncate: bool,
        terms: Terms,
        cut: Cut = "end",
        began_at: float | None = None,
    ) -> Forwarded:
        """Every output for each text; a deadline counts from `began_at`, or else from now.

        Raises:
            InputError, OverloadedError, DeadlineExceededError, NotReadyError, InferenceError.
        """
        began_at = perf_counter() if began_at is None else began_at
        allowed = cut if truncate else None
        found = [self._cache.get(text, allowed) for text in texts]
        missing = [index for index, known in enumerate(found) if known is None]
        if missing:
            wanted = [texts[index] for index in missing]
            terms = self._classed(wanted, terms)
            with self._scheduler.hold(_bytes(wanted), terms):
                encoded = await self._tokenize(wanted, missing, terms, allowed)
                spent_s = perf_counter() - began_at
                rows = await self._scheduler.submit(encoded, terms, spent_s=spent_s)
            for index, each, row in zip(missing, encoded, rows, strict=True):
                found[index] = known = Known(row, each.tokens, each.truncated)
                self._cache.put(texts[index], allowed, known)
        return self._forwarded([known for known in found if known is not None])

    async def apart(self, work: Callable[[], ResultT], *, characters: int, terms: Terms) -> ResultT:
        """Do `work` on so many characters of text in a tokenizer's thread.

        Raises:
            OverloadedError, DeadlineExceededError, NotReadyError; and what `work` raises.
        """
        if terms.priority is None:
            small = characters <= _QUICK_CHARACTERS
            terms = replace(terms, priority="interactive" if small else "bulk")
        with self._scheduler.hold(characters, terms):
            try:
                async with asyncio.timeout(terms.timeout_s):
                    return await self._in_thread(work, terms)
            except TimeoutError:
                raise _too_late(terms) from None

    def stop(self, reason: str) -> None:
        """Tokenize nothing more in the threads, and know nothing; who asks is told `reason`."""
        self._stopped = reason
        self._cache.clear()
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)

    def _forwarded(self, known: Sequence[Known]) -> Forwarded:
        truncated = tuple(index for index, each in enumerate(known) if each.truncated)
        self._metrics.truncated_texts.inc(len(truncated))
        usage = Usage(len(known), sum(each.tokens for each in known), truncated)
        return Forwarded([each.row for each in known], usage)

    def _classed(self, texts: Sequence[Text], terms: Terms) -> Terms:
        """The terms with the one class that counts from here on, by what there is to run."""
        bulk_from, most = self._scheduler.bulk_from, self._tokenizer.max_tokens
        counted = texts[: bulk_from.texts]  # more of them are bulk, whatever they hold
        tokens = sum(min(most, characters_in((each,)) // _CHARACTERS_PER_TOKEN) for each in counted)
        return bulk_from.classed(terms, texts=len(texts), tokens=tokens)

    async def _tokenize(
        self, texts: Sequence[Text], places: Sequence[int], terms: Terms, cut: Cut | None
    ) -> list[Encoded]:
        """`places` are where these texts stand in the request, for the error that names one."""
        started_at = perf_counter()
        encode = partial(self._tokenizer.encode, truncate=cut is not None, cut=cut or "end")
        encoded: list[Encoded] = []
        try:
            if len(texts) <= _QUICK_TEXTS and characters_in(texts) <= _QUICK_CHARACTERS:
                encoded = encode(texts)
            else:
                async with asyncio.timeout(terms.timeout_s):
                    while len(encoded) < len(texts):
                        part = texts[len(encoded) : len(encoded) + _PART_TEXTS]
                        encoded += await self._in_thread(partial(encode, part), terms)
        except TextTooLongError as error:
            raise error.moved(places[len(encoded) + error.index]) from None
        except TimeoutError:
            raise _too_late(terms) from None
        self._metrics.stage_seconds["tokenize"].observe(perf_counter() - started_at)
        return encoded

    async def _in_thread(self, work: Callable[[], ResultT], terms: Terms) -> ResultT:
        """Each class has a thread of its own: a query does not wait for parts of large requests."""
        assert terms.priority is not None, "chosen before tokenizing"
        if self._stopped is not None:
            raise NotReadyError(self._stopped)
        thread, working = self._threads[terms.priority], asyncio.current_task()
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        except asyncio.CancelledError:
            if self._stopped is None or (working is not None and working.cancelling()):
                raise
            raise NotReadyError(self._stopped) from None  # the part was given up, not the caller


def _too_late(terms: Terms) -> DeadlineExceededError:
    assert terms.timeout_s is not None, "only such a request expires"
    return DeadlineExceededError(timeout_s=terms.timeout_s)


def _bytes(texts: Sequence[Text]) -> int:
    """As they lie in memory, which takes no time to tell."""
    parts = (part for text in texts for part in ((text,) if isinstance(text, str) else text))
    return sum(map(sys.getsizeof, parts))
