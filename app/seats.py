"""What waits and what runs: a request of one caller, a seat for one text, a batch of seats.

A seat belongs to everyone who asked for the same text while it waited or ran, so that it runs
once. It is given up only when the last of them has left.
"""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from app.errors import DeadlineExceededError
from app.metrics import DropReason, Priority


class HasTokens(Protocol):
    @property
    def tokens(self) -> int: ...


ItemT = TypeVar("ItemT", bound=HasTokens)
ResultT = TypeVar("ResultT")


@dataclass(eq=False, slots=True)
class Request(Generic[ItemT, ResultT]):
    """One caller's items: admitted together, answered together, run in any company."""

    answer: asyncio.Future[list[ResultT]]
    priority: Priority
    arrived_at: float | None
    """None once its wait has been observed."""
    results: list[ResultT | None]
    missing: int
    """Results that are not there yet."""
    unstarted: int = 0
    """Items that still wait for a runner."""
    seats: "list[Seat[ItemT, ResultT]]" = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None

    @property
    def why_left(self) -> DropReason:
        """Of one that was answered, or given up, before all of it had run."""
        if self.answer.cancelled():
            return "gone"
        return "expired" if isinstance(self.answer.exception(), DeadlineExceededError) else "failed"

    def give(self, index: int, result: ResultT) -> None:
        """Note one result; the caller is answered when the last of them is there."""
        self.results[index] = result
        self.missing -= 1
        if not self.missing and not self.answer.done():
            self.answer.set_result(self.results)  # type: ignore[arg-type]  # none of them is missing


@dataclass(eq=False, slots=True)
class Seat(Generic[ItemT, ResultT]):
    """One item, to be run once for all its callers."""

    item: ItemT
    tokens: int
    key: Hashable | None
    """What items that are the same have in common; None where nobody asks."""
    work_s: float
    """Seconds it takes in a full batch of its like, by the law of the forecast."""
    priority: Priority
    callers: list[tuple[Request[ItemT, ResultT], int]] = field(default_factory=list)
    """Requests, and the place of the item in each."""
    claims: int = 0
    """Callers that have not left."""
    waiting: bool = True

    @property
    def wanted(self) -> bool:
        """Whether someone still waits for it; a caller may have left a moment ago."""
        return any(not request.answer.done() for request, _ in self.callers)


@dataclass(frozen=True, eq=False, slots=True)
class Batch(Generic[ItemT, ResultT]):
    """Items that run together. Hand it back by `Scheduler.finish` or `Scheduler.fail`."""

    seats: list[Seat[ItemT, ResultT]]
    taken_at: float
    predicted_s: float

    @property
    def items(self) -> list[ItemT]:
        return [seat.item for seat in self.seats]

    @property
    def tokens(self) -> int:
        return sum(seat.tokens for seat in self.seats)

    @property
    def longest(self) -> int:
        return max(seat.tokens for seat in self.seats)

    @property
    def padded_tokens(self) -> int:
        return len(self.seats) * self.longest
