import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import cycle
from typing import cast

import pytest

from .open_loop import TICK_S, Caller, summary

REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi"


class Answering(asyncio.Protocol):
    """Gives these statuses in turn, whatever it is asked."""

    def __init__(self, statuses: Iterator[int]) -> None:
        self._statuses = statuses
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(REQUEST)):
            head = f"HTTP/1.1 {next(self._statuses)} X\r\nContent-Length: 4\r\n\r\n"
            self._transport.write(head.encode() + b"done")

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set()


@asynccontextmanager
async def answering(*statuses: int) -> AsyncIterator[int]:
    """The port of such a server."""
    coming, connections = cycle(statuses), list[Answering]()

    def connected() -> Answering:
        connections.append(Answering(coming))
        return connections[-1]

    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5), await loop.create_server(connected, "127.0.0.1") as server:
        yield server.sockets[0].getsockname()[1]
        for connection in connections:
            await connection.gone.wait()


async def asked(*statuses: int, good_within_s: float = 5.0) -> dict[str, float]:
    async with answering(*statuses) as port:
        caller = Caller(port, [REQUEST])
        await caller.run(rate=2_000, seconds=0.02)
        await caller.close()
    return summary(caller, seconds=0.02, good_within_s=good_within_s)


async def test_no_rate_makes_the_generator_wait_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep, asked_s = asyncio.sleep, list[float]()

    async def noted(seconds: float) -> None:
        asked_s.append(seconds)
        await sleep(seconds)

    async with answering(200) as port:
        caller = Caller(port, [REQUEST])
        monkeypatch.setattr(asyncio, "sleep", noted)
        await caller.run(rate=4_000, seconds=0.05)
        monkeypatch.undo()
        await caller.close()
    assert asked_s.count(0) >= 200  # a turn of the loop for each request
    assert all(seconds >= TICK_S for seconds in asked_s if seconds)
    assert min(caller.lags_s) >= 0


async def test_every_answer_is_counted_by_its_status() -> None:
    found = await asked(200, 200, 200, 429)
    assert (found["accepted"], found["refused"], found["other"]) == (30, 10, 0)
    assert found["unsent"] == found["unanswered"] == 0
    assert found["goodput_per_s"] == pytest.approx(1_500)
    assert 0 < found["refusal_p50_ms"] <= found["refusal_p99_ms"]


async def test_an_answer_that_comes_late_is_accepted_but_not_good() -> None:
    found = await asked(200, good_within_s=0.0)
    assert found["accepted"] == 40
    assert found["goodput_per_s"] == 0


async def test_what_is_no_answer_is_told() -> None:
    async with answering(200) as port:
        pass
    caller = Caller(port, [REQUEST])
    await caller.run(rate=1_000, seconds=0.01)
    assert summary(caller, seconds=0.01, good_within_s=1.0)["unanswered"] == 10
