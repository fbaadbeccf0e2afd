import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from app.errors import InferenceError, NotReadyError
from app.metrics import Metrics
from app.runners import Runners
from app.scheduler import Scheduler


@dataclass(frozen=True)
class Word:
    text: str
    tokens: int = 1


class RecordingModel:
    """Answers in capitals, remembers every batch, and waits at a gate if told to."""

    def __init__(self, *, gated: bool = False) -> None:
        self.batches: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.gated = gated

    def __call__(self, words: Sequence[Word]) -> list[str]:
        self.batches.append([word.text for word in words])
        self.begun.release()
        if self.gated:
            assert self.gate.acquire(timeout=5)
        return [word.text.upper() for word in words]

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=5)


Submit = Callable[..., "asyncio.Future[list[str]]"]


class Running:
    """Runners at work on one scheduler."""

    def __init__(self, model: Callable[[Sequence[Word]], Any], **options: object) -> None:
        self.metrics = Metrics()
        self.scheduler = Scheduler[Word, str](
            self.metrics,
            max_batch_tokens=options.pop("max_batch_tokens", 100),
            max_queue_tokens=1_000,
            tokens_per_s=100,
        )
        options = {"count": 1, "run_timeout_s": 5.0} | options
        self.runners = Runners(self.scheduler, model, self.metrics, **options)

    def submit(self, *texts: str) -> "asyncio.Future[list[str]]":
        return self.scheduler.submit([Word(text) for text in texts])

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"lightmbert_{name}", labels)


@asynccontextmanager
async def running(
    model: Callable[[Sequence[Word]], Any], **options: object
) -> AsyncIterator[Running]:
    async with asyncio.timeout(5):  # a hang is a failure, not a wait
        world = Running(model, **options)
        world.runners.start()
        yield world
        await world.runners.stop()


async def test_callers_get_their_own_results() -> None:
    async with running(RecordingModel(), count=2) as world:
        answers = [world.submit(f"a{i}", f"b{i}") for i in range(20)]
        for i, answer in enumerate(answers):
            assert await answer == [f"A{i}", f"B{i}"]


async def test_what_arrives_while_the_runner_is_busy_shares_the_next_batch() -> None:
    model = RecordingModel(gated=True)
    async with running(model) as world:
        answers = [world.submit("first")]
        await model.has_begun()
        answers += [world.submit("second"), world.submit("third", "fourth")]
        model.gate.release(2)
        await asyncio.gather(*answers)
    assert model.batches == [["first"], ["second", "third", "fourth"]]


async def test_runners_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=4)

    def meet(words: Sequence[Word]) -> list[str]:
        meeting.wait()
        return ["met" for _ in words]

    async with running(meet, count=2, max_batch_tokens=1) as world:
        assert await world.submit("one", "two") == ["met", "met"]


async def test_a_run_that_raises_fails_its_callers_and_the_next_one_works() -> None:
    model = RecordingModel()

    def fails_once(words: Sequence[Word]) -> list[str]:
        if not model.batches:
            model(words)
            raise RuntimeError("out of memory")
        return model(words)

    async with running(fails_once) as world:
        one, two = world.submit("one"), world.submit("two")
        for answer in (one, two):
            with pytest.raises(InferenceError, match="the model failed: RuntimeError"):
                await answer
        assert await world.submit("three") == ["THREE"]


async def test_a_run_that_answers_short_fails_its_callers() -> None:
    async with running(lambda words: ["only one"]) as world:
        with pytest.raises(InferenceError, match="1 rows for 3 texts"):
            await world.submit("one", "two", "three")


async def test_a_run_that_hangs_is_an_error_and_its_runner_is_replaced() -> None:
    model = RecordingModel()
    model.gated = True
    async with running(model, run_timeout_s=0.3) as world:
        with pytest.raises(InferenceError, match=r"did not finish a batch within 0\.3 s"):
            await world.submit("hangs")
        model.gated = False
        assert await world.submit("works") == ["WORKS"]
        assert not world.runners.broken
        model.gate.release()  # and its late answer disturbs nobody


async def test_when_runs_keep_hanging_everyone_is_told_and_the_process_gives_up() -> None:
    model = RecordingModel(gated=True)
    async with running(model, run_timeout_s=0.05, max_batch_tokens=1) as world:
        answers = [world.submit(f"text{i}") for i in range(5)]
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {InferenceError, NotReadyError}
        assert world.runners.broken
        with pytest.raises(NotReadyError, match="must be restarted"):
            world.submit("late")
        model.gate.release(5)


async def test_a_runner_that_cannot_be_replaced_leaves_no_caller_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more_threads(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    model = RecordingModel(gated=True)
    async with running(model, run_timeout_s=0.05) as world:
        hangs = world.submit("hangs")
        await model.has_begun()
        waits = world.submit("waits")
        with monkeypatch.context() as exhausted:
            exhausted.setattr(threading.Thread, "start", no_more_threads)
            with pytest.raises(InferenceError):
                await hangs
            with pytest.raises(NotReadyError, match="must be restarted"):
                await waits
        assert world.runners.broken
        model.gate.release()


async def test_a_stopped_runner_leaves_no_caller_waiting() -> None:
    model = RecordingModel(gated=True)
    async with running(model) as world:
        answer = world.submit("text")
        await model.has_begun()
        await world.runners.stop()
        with pytest.raises(NotReadyError, match="stopped before"):
            await answer
        model.gate.release()


async def test_a_caller_who_leaves_the_queue_is_never_run() -> None:
    model = RecordingModel(gated=True)
    async with running(model) as world:
        first = world.submit("first")
        await model.has_begun()
        world.submit("left").cancel()
        last = world.submit("last")
        model.gate.release(2)
        await asyncio.gather(first, last)
        assert world.value("dropped_texts_total") == 1
    assert model.batches == [["first"], ["last"]]


async def test_a_batch_is_measured_in_texts_and_tokens() -> None:
    async with running(RecordingModel()) as world:
        await world.scheduler.submit([Word("long", tokens=6), Word("short", tokens=2)])
        assert world.value("batch_texts_sum") == 2
        assert world.value("batch_tokens_sum") == 12
        assert world.value("tokens_total", kind="real") == 8
        assert world.value("tokens_total", kind="padded") == 12
        assert world.value("stage_duration_seconds_count", stage="run") == 1
        assert world.value("stage_duration_seconds_count", stage="queue") == 1
