"""Time that passes only when nothing is left to do, and the schedulers to compare with ours."""

import asyncio
import selectors
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.admission import ANY_TIME, Limits, Terms
from app.forecast import Forecast
from app.metrics import Metrics
from app.scheduler import Scheduler


@dataclass(frozen=True)
class Text:
    name: str
    tokens: int


class _Selector(selectors.DefaultSelector):
    """Instead of waiting, it moves the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everyone waits for someone else"
        self.now += max(0.0, timeout)
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._simulated = _Selector()
        super().__init__(self._simulated)

    def time(self) -> float:
        return self._simulated.now


def simulate(scenario: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - what the scenario gives
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(scenario)


@dataclass(frozen=True)
class Machine:
    """Runs of which the time follows a law, which a forecast has to learn."""

    overhead_s: float
    seconds_per_token: float

    def seconds(self, texts: Sequence[Text]) -> float:
        padded = len(texts) * max(text.tokens for text in texts)
        return self.overhead_s + padded * self.seconds_per_token


CPU = Machine(overhead_s=5e-4, seconds_per_token=5e-5)
GPU = Machine(overhead_s=3e-3, seconds_per_token=1e-6)


class Policy(Protocol):
    def submit(self, texts: Sequence[Text], terms: Terms = ANY_TIME) -> asyncio.Future[Any]: ...
    async def take(self) -> Any: ...  # noqa: ANN401 - whatever finish takes
    def finish(self, batch: Any, results: Sequence[str]) -> None: ...  # noqa: ANN401 - as above


def ours(
    machine: Machine, *, max_batch_tokens: int = 1_024, **options: object
) -> Scheduler[Text, str]:
    limits = Limits(queue_tokens=10**9, queue_bytes=10**9)
    forecast = Forecast(seconds_per_token=machine.seconds_per_token, overhead_s=machine.overhead_s)
    clock = asyncio.get_running_loop().time
    return Scheduler(
        Metrics(), forecast, limits, max_batch_tokens=max_batch_tokens, clock=clock, **options
    )


@dataclass(eq=False)
class _FifoBatch:
    seats: list[tuple[asyncio.Future[Any], Text]]

    @property
    def items(self) -> list[Text]:
        return [text for _, text in self.seats]


class Fifo:
    """First come, first served, under the same budget of padded tokens, at the last moment."""

    def __init__(self, *, max_batch_tokens: int = 1_024) -> None:
        self._budget = max_batch_tokens
        self._queue: deque[tuple[asyncio.Future[Any], Text]] = deque()
        self._arrival = asyncio.Event()

    def submit(self, texts: Sequence[Text], terms: Terms = ANY_TIME) -> asyncio.Future[Any]:
        answers = [asyncio.get_running_loop().create_future() for _ in texts]
        self._queue.extend(zip(answers, texts, strict=True))
        self._arrival.set()
        return asyncio.gather(*answers)

    async def take(self) -> _FifoBatch:
        while not self._queue:
            self._arrival.clear()
            await self._arrival.wait()
        seats = [self._queue.popleft()]
        longest = seats[0][1].tokens
        while self._queue:
            longest = max(longest, self._queue[0][1].tokens)
            if longest * (len(seats) + 1) > self._budget:
                break
            seats.append(self._queue.popleft())
        return _FifoBatch(seats)

    def finish(self, batch: _FifoBatch, results: Sequence[str]) -> None:
        for (answer, _), result in zip(batch.seats, results, strict=True):
            if not answer.done():
                answer.set_result(result)


class Sealed(Fifo):
    """The same, but the next batch is sealed while one runs: a prefetch of one."""

    def __init__(self, *, max_batch_tokens: int = 1_024) -> None:
        super().__init__(max_batch_tokens=max_batch_tokens)
        self._sealed: asyncio.Queue[_FifoBatch] = asyncio.Queue(1)
        self._sealing = asyncio.create_task(self._seal())

    async def _seal(self) -> None:
        while True:
            await self._sealed.put(await super().take())

    async def take(self) -> _FifoBatch:
        return await self._sealed.get()


async def run(policy: Policy, machine: Machine) -> None:
    """One runner, for ever."""
    while True:
        batch = await policy.take()
        await asyncio.sleep(machine.seconds(batch.items))
        policy.finish(batch, [text.name for text in batch.items])
