"""The engine by itself, as the command line uses it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from app.engine import Engine
from app.errors import InputError, ManifestError, NotReadyError, TooManyTextsError
from app.forecast import Forecast
from app.metrics import Metrics
from app.runtime.session import StudentSession
from app.settings import Settings


@pytest.fixture
async def engine(toy_model_dir: Path) -> AsyncIterator[Engine]:
    async with asyncio.timeout(10):
        engine = Engine.load(Settings(model_dir=toy_model_dir), Metrics())
        await engine.start()
        yield engine
        await engine.stop()


async def test_embed_gives_rows_in_order_as_float32(engine: Engine) -> None:
    embedded = await engine.embed(["hund", "tax"])
    assert embedded.vectors.dtype == np.float32
    assert embedded.vectors.flags.c_contiguous
    np.testing.assert_allclose(embedded.vectors, [[1, 0, 0, 0], [0, 0, 1, 0]])


async def test_classify_gives_scores_in_the_order_of_the_labels(engine: Engine) -> None:
    classified = await engine.classify(["tax", "hund"], task="topic")
    assert classified.labels == ("animals", "money")
    assert classified.scores.shape == (2, 2)
    assert classified.scores[0].argmax() == 1
    np.testing.assert_allclose(classified.scores.sum(axis=1), 1, rtol=1e-6)


async def test_many_callers_at_once_get_what_they_would_get_alone(engine: Engine) -> None:
    words = ["hund", "katt", "tax", "dog"]
    texts = [[" ".join(words[i % 4 : i % 4 + n]) for n in (1, 2, 3)] for i in range(40)]
    alone = [(await engine.embed(each)).vectors for each in texts[:4]]
    together = await asyncio.gather(*(engine.embed(each) for each in texts))
    for i, embedded in enumerate(together):
        np.testing.assert_allclose(embedded.vectors, alone[i % 4], atol=1e-6)


async def test_a_text_too_long_to_tokenize_in_passing_gives_the_same(engine: Engine) -> None:
    embedded = await engine.embed(["hund " * 1_000, "tax"], truncate=True)
    np.testing.assert_allclose(embedded.vectors, [[1, 0, 0, 0], [0, 0, 1, 0]])
    assert embedded.usage.truncated == (0,)


async def test_limits_hold_without_http_too(engine: Engine) -> None:
    with pytest.raises(TooManyTextsError):
        await engine.embed(["hund"] * 2_049)
    with pytest.raises(InputError, match="texts is empty"):
        await engine.classify([], task="topic")
    with pytest.raises(InputError, match="dimensions is 9"):
        await engine.embed(["hund"], dimensions=9)


async def test_a_stopped_engine_refuses_work(toy_model_dir: Path) -> None:
    engine = Engine.load(Settings(model_dir=toy_model_dir), Metrics())
    await engine.start()
    await engine.stop()
    async with asyncio.timeout(5):
        with pytest.raises(NotReadyError, match="shutting down"):
            await engine.embed(["hund"])


def test_warming_up_measures_this_machine(toy_model_dir: Path) -> None:
    engine = Engine.load(Settings(model_dir=toy_model_dir), Metrics())
    unmeasured = Forecast(seconds_per_token=1e-4)
    assert 0 < engine._forecast.seconds(8, 1) != unmeasured.seconds(8, 1)


async def test_a_text_alone_gets_more_threads_once_they_are_there(
    toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    load = StudentSession.load

    def loaded(*given: object, intra_op_threads: int, **named: object) -> StudentSession:
        asked.append(intra_op_threads)
        return load(*given, intra_op_threads=intra_op_threads, **named)

    monkeypatch.setattr(StudentSession, "load", loaded)
    settings = Settings(
        model_dir=toy_model_dir, runners=2, intra_op_threads=1, threads_alone=2, autotune=False
    )
    engine = Engine.load(settings, Metrics())
    assert asked == [1]
    await engine.start()
    before = await engine.embed(["hund"])
    engine.widen()
    assert asked == [1, 2]
    after = await engine.embed(["hund"])
    np.testing.assert_allclose(before.vectors, after.vectors, rtol=1e-6)
    await engine.stop()


@pytest.mark.parametrize(
    "error", [ManifestError("cannot be opened: out of memory"), OSError(5, "Input/output error")]
)
async def test_the_service_goes_on_where_no_second_model_fits(
    toy_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    settings = Settings(
        model_dir=toy_model_dir, runners=2, intra_op_threads=1, threads_alone=2, autotune=False
    )
    engine = Engine.load(settings, Metrics())
    await engine.start()

    def full(*given: object, **named: object) -> StudentSession:
        raise error

    monkeypatch.setattr(StudentSession, "load", full)
    engine.widen()
    assert caplog.messages[-1] == "no wide session"
    assert (await engine.embed(["hund"])).usage.texts == 1
    await engine.stop()
