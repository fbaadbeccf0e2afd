"""Whether one more request may wait: it may if it will be served in time and there is room.

Each class has bounds of its own, so that bulk requests cannot shut single queries out.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from app.errors import OverloadedError, TooManyTokensError
from app.fairness import WEIGHTS
from app.forecast import Forecast
from app.metrics import PRIORITIES, Priority

SURE = 0.5
"""Of a caller's deadline a predicted wait may take so much. Waits spread around what is predicted,
and of what was let in up to the deadline itself a quarter was run for nobody."""
_LEAST_RETRY_S = 0.1
"""Texts that fill the room may all be with the tokenizer, of which no wait is predicted."""


@dataclass(frozen=True, slots=True)
class Terms:
    """When a caller wants its answer."""

    priority: Priority | None = None
    """The class; None: by size."""
    timeout_s: float | None = None
    """Its own deadline: it is answered by then, by an error if need be."""
    max_wait_s: float = math.inf
    """Without one: the predicted wait with which an interactive request is still let in."""
    bulk_max_wait_s: float = math.inf
    """The same for a bulk request."""

    def limit_s(self, priority: Priority) -> float:
        """The longest predicted wait that such a request may have."""
        if self.timeout_s is not None:
            return SURE * self.timeout_s
        return self.max_wait_s if priority == "interactive" else self.bulk_max_wait_s


ANY_TIME = Terms()


@dataclass(frozen=True, slots=True)
class BulkFrom:
    """The size from which a request is bulk, unless its caller says what it is."""

    texts: int = 32
    tokens: int = 4_096

    def priority(self, *, texts: int, tokens: int) -> Priority:
        return "bulk" if texts >= self.texts or tokens >= self.tokens else "interactive"

    def classed(self, terms: Terms, *, texts: int, tokens: int) -> Terms:
        """The terms with the class of a request of this size, unless its caller named one."""
        if terms.priority is not None:
            return terms
        return replace(terms, priority=self.priority(texts=texts, tokens=tokens))


@dataclass(frozen=True, slots=True)
class Limits:
    """What may wait, of each class."""

    queue_tokens: int
    """Tokens of texts that wait for a runner."""
    queue_bytes: int
    """Bytes of texts whose request has no answer yet, be they tokenized or not."""


class Load(Protocol):
    """What one class has waiting."""

    tokens: int
    work_s: float
    """Lawful seconds of running, see `app.forecast`."""


class Admission:
    """Predicts waits and refuses what would wait too long or has no room."""

    def __init__(self, limits: Limits, forecast: Forecast, *, runners: int) -> None:
        self._held_bytes: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)
        self._limits = limits
        self._forecast = forecast
        self._runners = runners

    def wait_s(
        self,
        priority: Priority,
        loads: Mapping[Priority, Load],
        *,
        running_s: float,
        own_s: float = 0.0,
    ) -> float:
        """Predicted seconds until a request of this class has run `own_s` seconds.

        The other class takes part of the time by its weight, as long as it has work.

        Args:
            priority: the class.
            loads: what waits, per class.
            running_s: predicted rest of what runs now, summed over the runners.
            own_s: predicted seconds of the request's own running.
        """
        drift = self._forecast.drift
        ahead_s = loads[priority].work_s * drift + own_s
        if ahead_s:
            other: Priority = "bulk" if priority == "interactive" else "interactive"
            share = WEIGHTS[other] / WEIGHTS[priority]
            ahead_s += min(loads[other].work_s * drift, ahead_s * share)
        return (running_s + ahead_s) / self._runners

    def check_tokens(self, tokens: int, load: Load) -> None:
        """Raise unless so many tokens may join.

        Raises:
            TooManyTokensError: not even an empty queue could hold them.
            OverloadedError: the queue is too full now.
        """
        limit = self._limits.queue_tokens
        if tokens > limit:
            raise TooManyTokensError(tokens=tokens, limit=limit)
        excess = load.tokens + tokens - limit
        if excess > 0:
            seconds = excess * self._forecast.seconds_per_token * self._forecast.drift
            raise OverloadedError(
                f"the queue holds {load.tokens} of {limit} tokens; "
                f"there is no room for {tokens} more",
                retry_after_s=seconds / self._runners,
            )

    def check_wait(self, wait_s: float, limit_s: float) -> None:
        """Raise if a request would wait for longer than its limit.

        Raises:
            OverloadedError: with the time after which it would not.
        """
        if wait_s > limit_s:
            raise OverloadedError(
                f"this would wait for {wait_s:.3f} s; the limit is {limit_s:g} s",
                retry_after_s=wait_s - limit_s,
            )

    @contextmanager
    def hold(self, priority: Priority, size: int, *, wait_s: float) -> Iterator[None]:
        """Count the bytes of one request's texts for as long as this is open.

        A request that alone is over the limit comes in when nothing else is held.

        Raises:
            OverloadedError: there is no room for them now.
        """
        held, limit = self._held_bytes[priority], self._limits.queue_bytes
        if held and held + size > limit:
            raise OverloadedError(
                f"texts of {held} of {limit} bytes are waiting; there is no room for {size} more",
                retry_after_s=max(wait_s, _LEAST_RETRY_S),
            )
        self._held_bytes[priority] += size
        try:
            yield
        finally:
            self._held_bytes[priority] -= size
