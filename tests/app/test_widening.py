"""When the second session for texts that are alone is opened."""

import asyncio
import threading
from pathlib import Path

import pytest
from serving import ADMIN_KEY, Admin, serving
from toy_student import write_turned

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
    async with asyncio.timeout(10), serving(toy_model_dir, open_engine=Widening) as http:
        assert (await http.get("/readyz")).status_code == 200
        await Widening.asked.wait()


async def test_a_service_that_leaves_neither_waits_for_it_nor_opens_it(
    toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_WIDEN_AFTER_S", 60)
    Widening.asked, Widening.loop = asyncio.Event(), asyncio.get_running_loop()

    async with asyncio.timeout(10), serving(toy_model_dir, open_engine=Widening):
        pass
    assert not Widening.asked.is_set()


async def test_what_is_unloaded_while_another_is_widened_is_passed_over(
    toy_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned_dir = write_turned(tmp_path / "turned")
    monkeypatch.setattr(service, "_WIDEN_AFTER_S", 0)
    asked: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    def widen(engine: Engine) -> None:
        asked.append(engine.manifest.name)
        begun.set()
        assert may_end.wait(5)

    monkeypatch.setattr(Engine, "widen", widen)
    options = {"admin_key": ADMIN_KEY, "runners": 1}
    async with serving((toy_model_dir, turned_dir), **options) as http:
        assert await asyncio.to_thread(begun.wait, 5)
        admin = Admin(http)
        assert (await admin.unload("turned")).status_code == 200
        while (await admin.models())["leaving"]:
            await asyncio.sleep(0)
        may_end.set()
        [loading] = [each for each in asyncio.all_tasks() if each.get_coro().__name__ == "load"]
        await loading
    assert asked == ["toy"]
