"""Forms a batch at the moment a runner is free, from whatever waits then.

Nothing is sealed in advance and nothing waits for company: an idle runner takes what is there,
and while all runners are busy the queue gathers the next batch by itself. It knows nothing of
text, models or HTTP; items only have to say how many tokens they cost. All methods belong to
the event loop's thread, so there are no locks.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Generic

from app.admission import ANY_TIME, Admission, BulkFrom, Limits, Terms
from app.errors import DeadlineExceededError, LightMBERTError, NotReadyError
from app.forecast import Forecast, Run
from app.gauges import QueueGauges
from app.lines import INTERACTIVE_TARGET_S, Lines
from app.metrics import PRIORITIES, DropReason, Metrics, Priority
from app.seats import Batch, ItemT, Request, ResultT, Seat

__all__ = ["Batch", "ItemT", "ResultT", "Scheduler"]


class Scheduler(Generic[ItemT, ResultT]):
    """Two bounded queues, from which runners take batches under a token budget."""

    def __init__(
        self,
        metrics: Metrics,
        forecast: Forecast,
        limits: Limits,
        *,
        max_batch_tokens: int,
        runners: int = 1,
        bulk_from: BulkFrom | None = None,
        identity: Callable[[ItemT], Hashable] | None = None,
        clock: Callable[[], float] = perf_counter,
        model: str = "",
    ) -> None:
        """An open scheduler with nothing in it.

        Args:
            metrics: where to count.
            forecast: what is known of run times; every batch corrects it.
            limits: what may wait.
            max_batch_tokens: padded tokens of one batch.
            runners: how many batches run at a time.
            bulk_from: which requests are bulk.
            identity: equal for items that have the same result; without it nothing is shared.
            clock: seconds; only differences count.
            model: whose metrics these are.
        """
        self._metrics = metrics
        self._waits = metrics.stage_seconds["queue"]
        self._gauges = QueueGauges(metrics, model=model)
        self._forecast = forecast
        self._admission = Admission(limits, forecast, runners=runners)
        self.bulk_from = bulk_from or BulkFrom()
        self._clock = clock
        self._lines = Lines[ItemT, ResultT](
            forecast, max_batch_tokens=max_batch_tokens, identity=identity
        )
        self._requests: set[Request[ItemT, ResultT]] = set()
        self._running: set[Batch[ItemT, ResultT]] = set()
        self._closed: str | None = None
        self._arrival = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def check(self, terms: Terms) -> None:
        """Raise if a request would wait too long, as far as can be told before it is read.

        With a deadline its own run counts as the mean of those that wait: else an overload would
        have nearly all read and tokenized before they are refused. So a text much shorter than
        they are may be refused that would just have been in time.

        Raises:
            NotReadyError: the scheduler is closed.
            OverloadedError: see `submit`.
        """
        if self._closed is not None:
            raise NotReadyError(self._closed)
        classes = [each for each in PRIORITIES if terms.priority in (None, each)]
        one_s = self._lines.one_s if terms.timeout_s is not None else lambda _: 0.0
        waits = {each: self._wait_s(each, own_s=one_s(each)) for each in classes}
        likeliest = min(classes, key=lambda each: waits[each] - terms.limit_s(each))
        self._admission.check_wait(waits[likeliest], terms.limit_s(likeliest))

    def hold(self, size: int, terms: Terms) -> AbstractContextManager[None]:
        """Check as `check` does, and count `size` bytes of texts as waiting while this is open.

        Raises:
            NotReadyError: the scheduler is closed.
            OverloadedError: see `submit`; or so many bytes have no room.
        """
        assert terms.priority is not None, "bytes are counted by class, see BulkFrom.classed"
        self.check(terms)
        return self._admission.hold(terms.priority, size, wait_s=self._wait_s(terms.priority))

    def submit(
        self, items: Sequence[ItemT], terms: Terms = ANY_TIME, *, spent_s: float = 0.0
    ) -> asyncio.Future[list[ResultT]]:
        """Queue all of one caller's items or, by raising, none of them.

        Args:
            items: what to run.
            terms: when the caller wants its answer.
            spent_s: how much of the caller's time, if it set one, has passed already.

        Returns:
            Their results in order. Cancel it to drop what has not run yet.

        Raises:
            NotReadyError: the scheduler is closed.
            TooManyTokensError: not even an empty queue could hold them.
            OverloadedError: the queue is too full now, or the wait would be too long.
            DeadlineExceededError: the caller's time is over.
        """
        if self._closed is not None:
            raise NotReadyError(self._closed)
        now, tokens = self._clock(), sum(item.tokens for item in items)
        priority = terms.priority or self.bulk_from.priority(texts=len(items), tokens=tokens)
        self._admission.check_tokens(tokens, self._lines.waiting[priority])
        self._check_wait(items, priority, terms, spent_s=spent_s)
        loop = asyncio.get_running_loop()
        request: Request[ItemT, ResultT] = Request(
            loop.create_future(), priority, now, [None] * len(items), len(items)
        )
        deadline = now + INTERACTIVE_TARGET_S
        if terms.timeout_s is not None:
            left_s = terms.timeout_s - spent_s
            deadline = min(deadline, now + left_s)
            request.timer = loop.call_later(left_s, self._expire, request, terms)
        request.answer.add_done_callback(lambda _: self._leave(request))
        self._requests.add(request)
        self._metrics.shared_texts.inc(self._lines.join(request, items, deadline=deadline))
        if not request.unstarted:
            self._observe_wait(request, now)
        self._show_queue()
        self._arrival.set()
        return request.answer

    async def take(self) -> Batch[ItemT, ResultT]:
        """The next batch, formed when there is something to run and someone to run it."""
        while (batch := self._form()) is None:
            self._arrival.clear()
            await self._arrival.wait()
        return batch

    def finish(
        self,
        batch: Batch[ItemT, ResultT],
        results: Sequence[ResultT],
        *,
        run_s: float | None = None,
    ) -> None:
        """Hand each item its result; a caller is answered when the last of them is there.

        `run_s` is how long the batch ran; by default, the time since it was taken.
        """
        seconds = self._clock() - batch.taken_at if run_s is None else run_s
        self._forecast.learn(Run(batch.longest, len(batch.seats), seconds))
        self._lines.charge(batch, seconds - batch.predicted_s)
        for seat, result in zip(batch.seats, results, strict=True):
            for request, index in seat.callers:
                request.give(index, result)
        self._retire(batch)

    def fail(self, batch: Batch[ItemT, ResultT], error: LightMBERTError) -> None:
        """Answer every caller in the batch with `error`; what else they queued is not run."""
        self._running.discard(batch)
        self._lines.forget(batch.seats)
        for seat in batch.seats:
            for request, _ in seat.callers:
                self._refuse(request, error)
        self._show_queue()

    def split(self, batch: Batch[ItemT, ResultT]) -> list[Batch[ItemT, ResultT]]:
        """Two halves in place of `batch`, without those whose callers have their answer."""
        self._retire(batch)
        seats = [seat for seat in batch.seats if seat.wanted]
        middle = (len(seats) + 1) // 2
        halves = [self._batch(half) for half in (seats[:middle], seats[middle:]) if half]
        self._running.update(halves)
        self._show_queue()
        return halves

    def close(self, reason: str) -> None:
        """Admit nothing more; later callers are told `reason`. What is queued still runs."""
        self._closed = reason

    def abort(self, reason: str) -> None:
        """Close, and answer everyone who still waits with `reason`."""
        self.close(reason)
        for request in list(self._requests):
            self._refuse(request, NotReadyError(reason))
        for batch in list(self._running):
            self._retire(batch)

    async def idle(self) -> None:
        """Return when nothing is queued and nothing runs."""
        await self._idle.wait()

    def _check_wait(
        self, items: Sequence[ItemT], priority: Priority, terms: Terms, *, spent_s: float
    ) -> None:
        if terms.timeout_s is not None and spent_s >= terms.timeout_s:
            raise DeadlineExceededError(timeout_s=terms.timeout_s)
        if self._idle.is_set():
            return  # whatever the forecast says: it is by running that it is corrected
        if terms.timeout_s is None:
            wait_s = self._wait_s(priority)
        else:  # to be answered by then, rather than begun
            wait_s = spent_s + self._wait_s(priority, own_s=self._lines.own_s(items))
        self._admission.check_wait(wait_s, terms.limit_s(priority))

    def _form(self) -> Batch[ItemT, ResultT] | None:
        while seats := self._lines.form(self._clock()):
            wanted = [seat for seat in seats if seat.wanted]
            self._drop(len(seats) - len(wanted), "gone")  # callers who left a moment ago
            if len(wanted) < len(seats):
                self._lines.forget([seat for seat in seats if not seat.wanted])
            if wanted:
                batch = self._batch(wanted)
                self._lines.charge(batch, batch.predicted_s)
                self._running.add(batch)
                self._observe_waits(batch)
                self._show_queue()
                self._show_waits()
                return batch
        self._show_queue()
        return None

    def _batch(self, seats: list[Seat[ItemT, ResultT]]) -> Batch[ItemT, ResultT]:
        longest = max(seat.tokens for seat in seats)
        return Batch(seats, self._clock(), self._forecast.seconds(longest, len(seats)))

    def _observe_waits(self, batch: Batch[ItemT, ResultT]) -> None:
        """Of each request of which the last item is about to run."""
        for seat in batch.seats:
            for request, _ in seat.callers:
                if not request.unstarted:
                    self._observe_wait(request, batch.taken_at)

    def _observe_wait(self, request: Request[ItemT, ResultT], until: float) -> None:
        if request.arrived_at is not None:
            self._waits.observe(until - request.arrived_at)
            request.arrived_at = None

    def _expire(self, request: Request[ItemT, ResultT], terms: Terms) -> None:
        assert terms.timeout_s is not None, "only such a request expires"
        self._refuse(request, DeadlineExceededError(timeout_s=terms.timeout_s))

    def _refuse(self, request: Request[ItemT, ResultT], error: LightMBERTError) -> None:
        if not request.answer.done():
            request.answer.set_exception(error)
        self._leave(request)

    def _leave(self, request: Request[ItemT, ResultT]) -> None:
        """Give up what has not run yet, at the latest when the caller is gone."""
        if request not in self._requests:
            return
        self._requests.discard(request)
        if request.timer is not None:
            request.timer.cancel()
        if dropped := self._lines.leave(request):
            self._drop(dropped, request.why_left)
            self._show_queue()

    def _drop(self, texts: int, reason: DropReason) -> None:
        if texts:
            self._metrics.dropped_texts.labels(reason).inc(texts)

    def _retire(self, batch: Batch[ItemT, ResultT]) -> None:
        self._running.discard(batch)
        self._lines.forget(batch.seats)
        self._show_queue()

    def _wait_s(self, priority: Priority, *, own_s: float = 0.0) -> float:
        now, running_s = self._clock(), 0.0
        for batch in self._running:  # a loop, for every request passes here, refused ones too
            running_s += max(0.0, batch.taken_at + batch.predicted_s - now)
        return self._admission.wait_s(
            priority, self._lines.waiting, running_s=running_s, own_s=own_s
        )

    def _show_queue(self) -> None:
        self._gauges.show(tokens=self._lines.tokens, texts=self._lines.texts)
        if self._running or self._lines.texts:
            self._idle.clear()
        else:
            self._idle.set()
            self._show_waits()

    def _show_waits(self) -> None:
        for priority in PRIORITIES:
            self._gauges.show_wait(priority, self._wait_s(priority))
