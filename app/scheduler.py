"""Forms a batch at the moment a runner is free, from whatever waits then.

Nothing is sealed in advance and nothing waits for company: an idle runner takes what is there,
and while all runners are busy the queue gathers the next batch by itself. It knows nothing of
text, models or HTTP; items only have to say how many tokens they cost. All methods belong to
the event loop's thread, so there are no locks.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Generic, Protocol, TypeVar

from app.errors import LightMBERTError, NotReadyError, OverloadedError, TooManyTokensError
from app.metrics import Metrics

LOOKAHEAD = 1_024
"""How many of the oldest items may be searched for neighbours of like length."""


class HasTokens(Protocol):
    @property
    def tokens(self) -> int: ...


ItemT = TypeVar("ItemT", bound=HasTokens)
ResultT = TypeVar("ResultT")


@dataclass(eq=False, slots=True)
class _Request(Generic[ItemT, ResultT]):
    """One caller's items: admitted together, answered together, run in any company."""

    waiting: OrderedDict[int, ItemT]
    answer: asyncio.Future[list[ResultT]]
    results: dict[int, ResultT] = field(default_factory=dict)
    items: int = 0
    arrived_at: float = field(default_factory=perf_counter)


@dataclass(frozen=True, eq=False, slots=True)
class _Seat(Generic[ItemT, ResultT]):
    request: _Request[ItemT, ResultT]
    index: int
    item: ItemT


@dataclass(frozen=True, eq=False, slots=True)
class Batch(Generic[ItemT, ResultT]):
    """Items that run together. Hand it back by `Scheduler.finish` or `Scheduler.fail`."""

    seats: list[_Seat[ItemT, ResultT]]
    taken_at: float = field(default_factory=perf_counter)

    @property
    def items(self) -> list[ItemT]:
        return [seat.item for seat in self.seats]

    @property
    def tokens(self) -> int:
        return sum(seat.item.tokens for seat in self.seats)

    @property
    def padded_tokens(self) -> int:
        return len(self.seats) * max(seat.item.tokens for seat in self.seats)


class Scheduler(Generic[ItemT, ResultT]):
    """A queue bounded in tokens, from which runners take batches under a token budget."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_batch_tokens: int,
        max_queue_tokens: int,
        tokens_per_s: float,
    ) -> None:
        """`tokens_per_s` is a first guess; every batch corrects it."""
        self._metrics = metrics
        self._max_batch_tokens = max_batch_tokens
        self._max_queue_tokens = max_queue_tokens
        self._tokens_per_s = tokens_per_s
        self._queue: OrderedDict[int, _Request[ItemT, ResultT]] = OrderedDict()
        self._queue_tokens = 0
        self._running: set[Batch[ItemT, ResultT]] = set()
        self._closed: str | None = None
        self._arrival = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def admit(self, *, tokens: int) -> None:
        """Raise unless a request of this many tokens may join the queue now.

        Raises:
            NotReadyError: the scheduler is closed.
            TooManyTokensError: not even an empty queue could hold them.
            OverloadedError: the queue is too full now.
        """
        if self._closed is not None:
            raise NotReadyError(self._closed)
        if tokens > self._max_queue_tokens:
            raise TooManyTokensError(tokens=tokens, limit=self._max_queue_tokens)
        excess = self._queue_tokens + tokens - self._max_queue_tokens
        if excess > 0:
            raise OverloadedError(
                f"the queue holds {self._queue_tokens} of {self._max_queue_tokens} tokens; "
                f"there is no room for {tokens} more",
                retry_after_s=excess / self._tokens_per_s,
            )

    def submit(self, items: Sequence[ItemT]) -> asyncio.Future[list[ResultT]]:
        """Queue all of one caller's items or, by raising as `admit` does, none of them.

        The future gives their results in order. Cancel it to drop what has not run yet.
        """
        tokens = sum(item.tokens for item in items)
        self.admit(tokens=tokens)
        request = _Request[ItemT, ResultT](
            OrderedDict(enumerate(items)),
            asyncio.get_running_loop().create_future(),
            items=len(items),
        )
        request.answer.add_done_callback(lambda _: self._forget(request))
        self._queue[id(request)] = request
        self._queue_changed(tokens=tokens, texts=len(items))
        self._arrival.set()
        return request.answer

    async def take(self) -> Batch[ItemT, ResultT]:
        """The next batch, formed when there is something to run and someone to run it."""
        while not (window := list(islice(self._seats(), LOOKAHEAD))):
            self._arrival.clear()
            await self._arrival.wait()
        batch = Batch(self._choose(window))
        for seat in batch.seats:
            del seat.request.waiting[seat.index]
            if not seat.request.waiting:
                del self._queue[id(seat.request)]
                waited = batch.taken_at - seat.request.arrived_at
                self._metrics.stage_duration_seconds.labels("queue").observe(waited)
        self._running.add(batch)
        self._queue_changed(tokens=-batch.tokens, texts=-len(batch.seats))
        return batch

    def finish(self, batch: Batch[ItemT, ResultT], results: Sequence[ResultT]) -> None:
        """Hand each item its result; a caller is answered when the last of them is there."""
        self._learn_rate(batch)
        for seat, result in zip(batch.seats, results, strict=True):
            request = seat.request
            request.results[seat.index] = result
            if len(request.results) == request.items and not request.answer.done():
                request.answer.set_result([request.results[i] for i in range(request.items)])
        self._retire(batch)

    def fail(self, batch: Batch[ItemT, ResultT], error: LightMBERTError) -> None:
        """Answer every caller in the batch with `error`; what else they queued is not run."""
        for seat in batch.seats:
            self._refuse(seat.request, error)
        self._retire(batch)

    def split(self, batch: Batch[ItemT, ResultT]) -> list[Batch[ItemT, ResultT]]:
        """Two halves in place of `batch`, without those whose callers have their answer."""
        seats = [seat for seat in batch.seats if not seat.request.answer.done()]
        middle = (len(seats) + 1) // 2
        halves = [Batch(half) for half in (seats[:middle], seats[middle:]) if half]
        self._running.update(halves)
        self._retire(batch)
        return halves

    def close(self, reason: str) -> None:
        """Admit nothing more; later callers are told `reason`. What is queued still runs."""
        self._closed = reason

    def abort(self, reason: str) -> None:
        """Close, and answer everyone who still waits with `reason`."""
        self.close(reason)
        for request in list(self._queue.values()):
            self._refuse(request, NotReadyError(reason))
        for batch in list(self._running):
            self.fail(batch, NotReadyError(reason))

    async def idle(self) -> None:
        """Return when nothing is queued and nothing runs."""
        await self._idle.wait()

    def _seats(self) -> Iterator[_Seat[ItemT, ResultT]]:
        for request in self._queue.values():
            if not request.answer.done():  # the caller may have left a moment ago
                for index, item in request.waiting.items():
                    yield _Seat(request, index, item)

    def _choose(self, window: list[_Seat[ItemT, ResultT]]) -> list[_Seat[ItemT, ResultT]]:
        """The oldest item, and those of like length that fit the budget beside it."""
        oldest, *others = window
        others.sort(key=lambda seat: abs(seat.item.tokens - oldest.item.tokens))
        chosen, longest = [oldest], oldest.item.tokens
        for seat in others:
            widened = max(longest, seat.item.tokens)
            if widened * (len(chosen) + 1) <= self._max_batch_tokens:
                chosen.append(seat)
                longest = widened
        return chosen

    def _refuse(self, request: _Request[ItemT, ResultT], error: LightMBERTError) -> None:
        if not request.answer.done():
            request.answer.set_exception(error)
        self._forget(request)

    def _forget(self, request: _Request[ItemT, ResultT]) -> None:
        """Take what has not run yet out of the queue, at the latest when its caller is gone."""
        if self._queue.pop(id(request), None) is None:
            return
        if request.answer.cancelled():
            self._metrics.dropped_texts.inc(len(request.waiting))
        tokens = sum(item.tokens for item in request.waiting.values())
        self._queue_changed(tokens=-tokens, texts=-len(request.waiting))

    def _retire(self, batch: Batch[ItemT, ResultT]) -> None:
        self._running.discard(batch)
        self._queue_changed(tokens=0, texts=0)

    def _queue_changed(self, *, tokens: int, texts: int) -> None:
        self._queue_tokens += tokens
        self._metrics.queue_tokens.inc(tokens)
        self._metrics.queue_texts.inc(texts)
        if self._queue or self._running:
            self._idle.clear()
        else:
            self._idle.set()

    def _learn_rate(self, batch: Batch[ItemT, ResultT]) -> None:
        seconds = max(perf_counter() - batch.taken_at, 1e-6)
        rate = batch.tokens / seconds * max(1, len(self._running))
        self._tokens_per_s += 0.1 * (rate - self._tokens_per_s)
