"""When the second session for texts that are alone is opened."""

import asyncio
from pathlib import Path

import pytest
from serving import serving

from app import service
from app.engine import Engine


class Widening(Engine):
    """Says when it is asked to widen."""

    asked: asyncio.Event
    loop: asyncio.AbstractEventLoop

    def widen(self) -> None:
        self.loop.call_soon_threadsafe(self.asked.set)


async def test_it_is_opened_a_moment_after_the_service_is_ready(
    toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_WIDEN_AFTER_S", 0.01)
    Widening.asked, Widening.loop = asyncio.Event(), asyncio.get_running_loop()
    async with asyncio.timeout(10), serving(toy_model_dir, load_engine=Widening.load) as http:
        assert (await http.get("/readyz")).status_code == 200
        await Widening.asked.wait()


async def test_a_service_that_leaves_neither_waits_for_it_nor_opens_it(
    toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_WIDEN_AFTER_S", 60)
    Widening.asked, Widening.loop = asyncio.Event(), asyncio.get_running_loop()

    async with asyncio.timeout(10), serving(toy_model_dir, load_engine=Widening.load):
        pass
    assert not Widening.asked.is_set()
