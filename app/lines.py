"""The two lines, interactive and bulk, and the batch that is formed from them.

A batch starts with the item whose turn it is. Of the two classes, `app.fairness` says which
goes next. Within interactive, the earliest deadline goes first: what the caller set, or a fixed
time after arrival. Within bulk, each request has a clock of its own that starts at the time the
line has reached, so that several large requests advance side by side and a small one among
them is soon done. `app.waiting` fills the batch with items of like length from the same line.

Filling it up from the other line as well was tried in simulation, beside a call of 2,048 texts.
Single queries then waited three to five times as long (p50); that call took 3 % longer where
tokens are what costs, and a quarter less where a run costs as much as thousands of tokens.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Generic

from app.fairness import Turns
from app.forecast import Forecast
from app.metrics import PRIORITIES, Priority
from app.seats import Batch, ItemT, Request, ResultT, Seat
from app.waiting import Bounds, Waiting, fill

INTERACTIVE_TARGET_S = 0.05
"""An interactive item should have its result so soon; batches around it are kept that short."""


class Lines(Generic[ItemT, ResultT]):
    """Seats that wait, and seats that run, of both classes."""

    def __init__(
        self,
        forecast: Forecast,
        *,
        max_batch_tokens: int,
        identity: Callable[[ItemT], Hashable] | None,
    ) -> None:
        self.waiting: dict[Priority, Waiting[ItemT, ResultT]] = {
            priority: Waiting(priority) for priority in PRIORITIES
        }
        self._forecast = forecast
        self._max_batch_tokens = max_batch_tokens
        self._identity = identity
        self._turns = Turns()
        self._bulk_reached_s = 0.0
        self._work_s: dict[int, float] = {}
        self._known: dict[Hashable, Seat[ItemT, ResultT]] = {}

    @property
    def texts(self) -> int:
        return self.waiting["interactive"].texts + self.waiting["bulk"].texts

    @property
    def tokens(self) -> int:
        return self.waiting["interactive"].tokens + self.waiting["bulk"].tokens

    def work_s(self, tokens: int) -> float:
        """Lawful seconds of one item of so many tokens, in a full batch of its like."""
        known = self._work_s.get(tokens)
        if known is None:
            texts = max(1, self._max_batch_tokens // tokens)
            known = self._work_s[tokens] = self._forecast.law_s(texts * tokens) / texts
        return known

    def one_s(self, priority: Priority) -> float:
        """Predicted seconds of running one more like those that wait in this line."""
        return self.waiting[priority].mean_work_s * self._forecast.drift

    def own_s(self, items: Sequence[ItemT]) -> float:
        """Predicted seconds of running these, the fewer where the forecast contradicts itself.

        What seems too slow for its deadline is refused and so never run, and a shape that is
        never run keeps the ratio of the machine's worst hour. What seems too fast is stopped by
        its deadline, and teaches.
        """
        seconds = 0.0
        for item in items:
            texts = min(len(items), max(1, self._max_batch_tokens // item.tokens))
            ratio = self._forecast.ratio(item.tokens, texts)
            seconds += self.work_s(item.tokens) * min(ratio, self._forecast.drift)
        return seconds

    def join(
        self, request: Request[ItemT, ResultT], items: Sequence[ItemT], *, deadline: float
    ) -> int:
        """Give each item a seat, its own or one that is there already; return how many those are."""
        if not self.waiting[request.priority].texts:
            self._turns.join(request.priority)
        bulk = request.priority == "bulk"
        tag, shared = self._bulk_reached_s if bulk else deadline, 0
        for index, item in enumerate(items):
            key = None if self._identity is None else self._identity(item)
            seat = None if key is None else self._known.get(key)
            if seat is None:
                seat = self._new_seat(request, item, key)
                self.waiting[request.priority].push(seat, tag)
                tag += seat.work_s if bulk else 0.0
            else:
                shared += 1
                if seat.waiting and request.priority != seat.priority == "bulk":
                    self._promote(seat, tag)
            seat.callers.append((request, index))
            seat.claims += 1
            request.unstarted += seat.waiting
            request.seats.append(seat)
        return shared

    def leave(self, request: Request[ItemT, ResultT]) -> int:
        """Give up the request's claims; return how many seats nobody wants any more."""
        dropped = 0
        for seat in request.seats:
            seat.claims -= 1
            if seat.waiting and not seat.claims:
                seat.waiting = False
                self._unseat(seat)
                self.forget([seat])
                dropped += 1
        request.seats = []
        return dropped

    def form(self, now: float) -> list[Seat[ItemT, ResultT]]:
        """Take out what runs next; nothing if nothing waits."""
        lines = [priority for priority in PRIORITIES if self.waiting[priority].texts]
        if not lines:
            return []
        turn = self._turns.next(lines)
        line = self.waiting[turn]
        tag, length = line.first()
        if turn == "bulk":
            self._bulk_reached_s = max(self._bulk_reached_s, tag)
        # Once it is too late for the first, a short batch would only make others late as well.
        slack_s = tag - now if turn == "interactive" else math.inf
        in_time = slack_s >= self._forecast.seconds(length, 1)
        bounds = Bounds(self._max_batch_tokens, slack_s if in_time else math.inf, self._forecast)
        seats = fill(line.pop(length), line, bounds)
        for seat in seats:
            self._unseat(seat)
            for request, _ in seat.callers:
                request.unstarted -= 1
        return seats

    def charge(self, batch: Batch[ItemT, ResultT], seconds: float) -> None:
        """Put seconds of running on the account of each class, by its part of the batch."""
        for priority in PRIORITIES:
            texts = sum(seat.priority == priority for seat in batch.seats)
            self._turns.charge(priority, seconds * texts / len(batch.seats))

    def forget(self, seats: Sequence[Seat[ItemT, ResultT]]) -> None:
        """They have their results, or will have none: later items like them run anew."""
        for seat in seats:
            if seat.key is not None and self._known.get(seat.key) is seat:
                del self._known[seat.key]

    def _new_seat(
        self, request: Request[ItemT, ResultT], item: ItemT, key: Hashable | None
    ) -> Seat[ItemT, ResultT]:
        tokens = item.tokens
        seat: Seat[ItemT, ResultT] = Seat(item, tokens, key, self.work_s(tokens), request.priority)
        if key is not None:
            self._known[key] = seat
        return seat

    def _promote(self, seat: Seat[ItemT, ResultT], tag: float) -> None:
        """Let a seat of bulk go with interactive, where someone waits for it now."""
        line, seat.priority = self.waiting[seat.priority], "interactive"
        line.forget(seat)
        self.waiting["interactive"].push(seat, tag)

    def _unseat(self, seat: Seat[ItemT, ResultT]) -> None:
        self.waiting[seat.priority].forget(seat)
