import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import perf_counter

import pytest

from app.admission import Terms
from app.engine import Engine
from app.errors import DeadlineExceededError, NotReadyError, TextTooLongError
from app.metrics import Metrics
from app.runtime.tokenizer import Cut, Encoded, Text, Tokenizer
from app.settings import Settings
from app.student import Row

LONG = "hund" + " " * 3_000
"""Too much to be tokenized on the event loop, and three tokens."""


class GatedTokenizer(Tokenizer):
    """Remembers how many texts it was given at a time and where; many wait while it is closed."""

    sizes: list[int]
    threads: list[str]
    begun: threading.Event
    gate: threading.Event

    def encode(self, texts: Sequence[Text], *, truncate: bool, cut: Cut = "end") -> list[Encoded]:
        self.sizes.append(len(texts))
        self.threads.append(threading.current_thread().name)
        if len(texts) > 32:
            self.begun.set()
            assert self.gate.wait(timeout=5)
        return super().encode(texts, truncate=truncate, cut=cut)

    async def has_begun(self) -> None:
        """Return once it has been given many texts."""
        assert await asyncio.to_thread(self.begun.wait, timeout=5)


@pytest.fixture
async def engine(toy_model_dir: Path) -> AsyncIterator[Engine]:
    engine = Engine.load(Settings(model_dir=toy_model_dir), Metrics())
    tokenizer = engine._tokenizer
    tokenizer.__class__ = GatedTokenizer
    tokenizer.sizes, tokenizer.threads = [], []
    tokenizer.begun, tokenizer.gate = threading.Event(), threading.Event()
    tokenizer.gate.set()
    await engine.start()
    async with asyncio.timeout(10):  # a hang is a failure, not a wait
        yield engine
        tokenizer.gate.set()
        await engine.stop()


async def test_a_text_waits_for_a_part_of_a_large_request_and_not_for_all_of_it(
    engine: Engine,
) -> None:
    texts = ["hund katt tax"] * 299 + ["katt"]
    large, single = await asyncio.gather(
        engine.embed(texts, terms=Terms("interactive")), engine.embed([LONG])
    )
    assert engine._tokenizer.sizes == [128, 1, 128, 44]
    assert large.usage.texts == 300
    assert single.usage.tokens == 3
    assert large.vectors[299].argmax() == 1  # the order is kept


async def test_a_text_that_is_too_long_is_named_by_its_place_in_the_request(engine: Engine) -> None:
    texts = ["hund katt tax"] * 200 + ["hund " * 9] + ["katt"] * 99
    with pytest.raises(TextTooLongError, match=r"texts\[200\] has 11 tokens"):
        await engine.embed(texts)


async def test_a_query_waits_for_no_part_of_a_bulk_request(engine: Engine) -> None:
    engine._tokenizer.gate.clear()
    large = asyncio.create_task(engine.embed(["hund katt tax"] * 300))
    await engine._tokenizer.has_begun()
    assert (await engine.embed([LONG])).usage.tokens == 3
    assert not large.done()
    engine._tokenizer.gate.set()
    assert (await large).usage.texts == 300


@pytest.mark.parametrize(("texts", "here"), [(32, True), (33, False)])
async def test_few_short_texts_are_tokenized_where_they_are(
    engine: Engine, texts: int, here: bool
) -> None:
    await engine.embed(["hund"] * texts)
    assert engine._tokenizer.sizes == [texts]
    assert (engine._tokenizer.threads == [threading.current_thread().name]) == here


async def test_a_deadline_passes_while_texts_are_tokenized(engine: Engine) -> None:
    engine._tokenizer.gate.clear()
    with pytest.raises(DeadlineExceededError, match="within the 50 ms that you set"):
        await engine.embed(["hund"] * 300, terms=Terms(timeout_s=0.05))
    assert engine._tokenizer.sizes == [128]


async def test_time_with_the_tokenizer_is_the_callers(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, spent = engine._scheduler.submit, list[float]()

    def recording(
        items: list[Encoded], terms: Terms, *, spent_s: float = 0.0
    ) -> "asyncio.Future[list[Row]]":
        spent.append(spent_s)
        return submit(items, terms, spent_s=spent_s)

    monkeypatch.setattr(engine._scheduler, "submit", recording)
    engine._tokenizer.gate.clear()
    asking = asyncio.create_task(engine.embed(["hund"] * 40, terms=Terms(timeout_s=5.0)))
    await engine._tokenizer.has_begun()
    begun_at = perf_counter()
    await asyncio.to_thread(lambda: None)
    held_s = perf_counter() - begun_at
    engine._tokenizer.gate.set()
    await asking
    assert 0 < held_s < spent[0] < 5


async def test_whoever_waits_for_the_tokenizer_is_told_of_the_end(engine: Engine) -> None:
    engine._tokenizer.gate.clear()
    waiting = [asyncio.create_task(engine.embed(["hund"] * 300)) for _ in range(2)]
    await engine._tokenizer.has_begun()
    await engine.stop(timeout_s=0)
    engine._tokenizer.gate.set()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, NotReadyError)
        assert str(outcome) == "the service is shutting down"
    assert engine._tokenizer.sizes == [128]


async def test_whoever_leaves_after_the_end_has_left(engine: Engine) -> None:
    engine._tokenizer.gate.clear()
    leaving = asyncio.create_task(engine.embed(["hund"] * 300))
    await engine._tokenizer.has_begun()
    await engine.stop(timeout_s=0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
