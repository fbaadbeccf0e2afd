import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from app.admission import Limits
from app.errors import InferenceError, ManifestError, NotReadyError
from app.forecast import Forecast
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
        self.healed: list[str] = []
        self.begun = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.gated = gated

    def run(self, words: Sequence[Word], /) -> list[str]:
        self.batches.append([word.text for word in words])
        self.begun.release()
        if self.gated:
            assert self.gate.acquire(timeout=5)
        return [word.text.upper() for word in words]

    def heal(self, *, hung: bool) -> bool:
        self.healed.append("hung" if hung else "well")
        return hung

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=5)


class Spoilt(RecordingModel):
    """Cannot take a batch that holds the word "bad"."""

    def run(self, words: Sequence[Word], /) -> list[str]:
        answers = super().run(words)
        if "BAD" in answers:
            raise RuntimeError("cannot take it")
        return answers


class Sick(RecordingModel):
    """Fails `failures` times in a row, and each time says that it had to be opened anew."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def run(self, words: Sequence[Word], /) -> list[str]:
        answers = super().run(words)
        if self.failures:
            self.failures -= 1
            raise MemoryError
        return answers

    def heal(self, *, hung: bool) -> bool:
        self.healed.append("sick")
        return True


class Unopenable(Sick):
    """And then it opens only at the third attempt; it stops at a gate before."""

    def heal(self, *, hung: bool) -> bool:
        super().heal(hung=hung)
        if len(self.healed) == 2:
            self.begun.release()
            assert self.gate.acquire(timeout=5)
        if len(self.healed) < 3:
            raise ManifestError("no such file")
        return True


class Running:
    """Runners at work on one scheduler."""

    def __init__(self, model: RecordingModel, *, count: int = 1, **options: object) -> None:
        self.metrics = Metrics()
        self.scheduler = Scheduler[Word, str](
            self.metrics,
            Forecast(seconds_per_token=0.01, overhead_s=1.0),
            Limits(queue_tokens=1_000, queue_bytes=1_000),
            max_batch_tokens=options.pop("max_batch_tokens", 100),
        )
        self.health: list[bool] = []
        options = {"run_timeout_s": 5.0, "max_faults": 3} | options
        self.runners = Runners(
            self.scheduler,
            [model] * count,
            self.metrics,
            on_health=lambda: self.health.append(self.runners.ready),
            **options,
        )

    def submit(self, *texts: str) -> "asyncio.Future[list[str]]":
        return self.scheduler.submit([Word(text) for text in texts])

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"lightmbert_{name}", labels)


@asynccontextmanager
async def running(model: RecordingModel, **options: object) -> AsyncIterator[Running]:
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

    class Meeting(RecordingModel):
        def run(self, words: Sequence[Word], /) -> list[str]:
            meeting.wait()
            return ["met" for _ in words]

    async with running(Meeting(), count=2, max_batch_tokens=1) as world:
        assert await world.submit("one", "two") == ["met", "met"]


async def test_a_text_that_the_model_cannot_take_fails_alone() -> None:
    model = Spoilt(gated=True)
    async with running(model) as world:
        first = world.submit("first")
        await model.has_begun()
        good, bad = world.submit(*"abcdefg"), world.submit("bad")
        model.gated = False
        model.gate.release()
        assert await first == ["FIRST"]
        assert await good == list("ABCDEFG")
        with pytest.raises(InferenceError, match="the model failed: RuntimeError"):
            await bad
        assert world.value("model_faults_total") == 0
    assert model.healed == ["well"]


async def test_several_bad_texts_fail_none_of_their_neighbours() -> None:
    model = Spoilt(gated=True)
    async with running(model) as world:
        first = world.submit("first")
        await model.has_begun()
        answers = [world.submit("bad" if index in (3, 20) else str(index)) for index in range(32)]
        model.gated = False
        model.gate.release()
        await first
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
    failed = [index for index, each in enumerate(outcomes) if isinstance(each, InferenceError)]
    assert failed == [3, 20]


async def test_a_batch_of_bad_texts_is_not_halved_without_end() -> None:
    model = Spoilt()
    async with running(model) as world:
        bad = [world.submit("bad") for _ in range(32)]
        outcomes = await asyncio.gather(*bad, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {InferenceError}
        assert await world.submit("good") == ["GOOD"]
    assert len(model.batches) < 20


async def test_a_sick_model_is_opened_anew_and_nobody_notices() -> None:
    model = Sick(failures=1)
    async with running(model) as world:
        assert await world.submit("one", "two") == ["ONE", "TWO"]
        assert world.value("model_faults_total") == 1
        assert all(world.health)


async def test_a_good_run_ends_the_row_of_faults() -> None:
    model = Sick(failures=0)
    async with running(model) as world:
        for _ in range(5):
            model.failures = 1
            assert await world.submit("one") == ["ONE"]
        assert world.value("model_faults_total") == 5
        assert not world.runners.broken


async def test_a_model_that_is_sick_time_and_again_is_given_up() -> None:
    async with running(Sick(failures=100)) as world:
        for _ in range(2):
            with pytest.raises(InferenceError):
                await world.submit("one")
        with pytest.raises(NotReadyError, match="must be restarted"):
            await world.submit("one")
        assert world.runners.broken
        assert not world.health[-1]
        with pytest.raises(NotReadyError, match="must be restarted"):
            world.submit("late")


async def test_while_the_model_cannot_be_opened_callers_wait_and_nobody_is_told_ready() -> None:
    model = Unopenable(failures=1)
    async with running(model, max_faults=4) as world:
        one = world.submit("one")
        await model.has_begun()  # the run
        await model.has_begun()  # the second attempt to open
        assert not world.runners.ready
        two = world.submit("two")
        model.gate.release()
        assert await one == ["ONE"]
        assert await two == ["TWO"]
        assert world.runners.ready
        assert world.value("model_faults_total") == 3


async def test_a_run_that_answers_short_fails_its_callers() -> None:
    class Short(RecordingModel):
        def run(self, words: Sequence[Word], /) -> list[str]:
            return super().run(words)[1:]

    async with running(Short()) as world:
        with pytest.raises(InferenceError, match="0 rows for 1 texts"):
            await world.submit("one")


async def test_a_run_that_hangs_is_an_error_and_its_runner_is_replaced() -> None:
    model = RecordingModel(gated=True)
    async with running(model, run_timeout_s=0.1) as world:
        with pytest.raises(InferenceError, match=r"did not finish a batch within 0\.1 s"):
            await world.submit("hangs")
        model.gated = False
        assert await world.submit("works") == ["WORKS"]
        assert not world.runners.broken
        model.gate.release()  # and its late answer disturbs nobody
    assert model.healed == ["hung"]


async def test_a_model_that_hangs_while_it_is_opened_is_given_up() -> None:
    model = RecordingModel(gated=True)
    model.heal = lambda hung: model.gate.acquire(timeout=5)  # type: ignore[method-assign,assignment]  # a fake of one test
    async with running(model, run_timeout_s=0.05, max_faults=2) as world:
        with pytest.raises(InferenceError):
            await world.submit("hangs")
        with pytest.raises(NotReadyError, match="must be restarted"):
            await world.submit("waits")
        assert world.runners.broken
        model.gate.release(5)


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
        assert world.health[-1:] == [False]
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
        assert world.value("dropped_texts_total", reason="gone") == 1
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
