import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from app.engine import Engine
from app.errors import TextTooLongError
from app.metrics import Metrics
from app.runtime.tokenizer import Encoded, Text, Tokenizer
from app.settings import Settings

LONG = "hund" + " " * 3_000
"""Too much to be tokenized on the event loop, and three tokens."""


class RecordingTokenizer(Tokenizer):
    """Remembers how many texts it was given at a time."""

    sizes: list[int]

    def encode(self, texts: Sequence[Text], *, truncate: bool) -> list[Encoded]:
        self.sizes.append(len(texts))
        return super().encode(texts, truncate=truncate)


@pytest.fixture
async def engine(toy_model_dir: Path) -> AsyncIterator[Engine]:
    engine = Engine.load(Settings(model_dir=toy_model_dir), Metrics())
    engine._tokenizer.__class__ = RecordingTokenizer
    engine._tokenizer.sizes = []
    await engine.start()
    yield engine
    await engine.stop()


async def test_a_text_waits_for_a_part_of_a_large_request_and_not_for_all_of_it(
    engine: Engine,
) -> None:
    large, single = await asyncio.gather(
        engine.embed(["hund katt tax"] * 299 + ["katt"]), engine.embed([LONG])
    )
    assert engine._tokenizer.sizes == [128, 1, 128, 44]
    assert large.usage.texts == 300
    assert single.usage.tokens == 3
    assert large.vectors[299].argmax() == 1  # the order is kept


async def test_a_text_that_is_too_long_is_named_by_its_place_in_the_request(engine: Engine) -> None:
    texts = ["hund katt tax"] * 200 + ["hund " * 9] + ["katt"] * 99
    with pytest.raises(TextTooLongError, match=r"texts\[200\] has 11 tokens"):
        await engine.embed(texts)
