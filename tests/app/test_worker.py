"""What a process does by itself: what a worker tells its supervisor, and what all leave alone."""

import gc
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from app import service
from app.handover import ALIVE, ENDED, READY, UNREADY, hand_over
from app.main import create_app
from app.server import Server
from app.service import Service
from app.settings import Settings
from app.worker import WorkerServer


@pytest.fixture
def lines() -> Iterator[tuple[socket.socket, socket.socket]]:
    upper, lower = socket.socketpair()
    with upper, lower:
        upper.setblocking(False)
        yield upper, lower


async def test_an_idle_worker_is_heard_once_a_second(
    toy_model_dir: Path, lines: tuple[socket.socket, socket.socket]
) -> None:
    upper, lower = lines
    settings = Settings(model_dir=toy_model_dir)
    server = WorkerServer(create_app(Service(settings)), lower)
    for tick in range(20):  # of 0.1 s
        await server.on_tick(tick)
    assert upper.recv(100) == ALIVE * 2


async def test_what_is_loaded_is_not_looked_through_for_garbage(
    toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(create_app(Service(Settings(model_dir=toy_model_dir))))
    frozen: list[int] = []

    async def run_briefly(of: uvicorn.Server) -> None:
        frozen.append(gc.get_freeze_count())
        await server.service.load()
        frozen.append(gc.get_freeze_count())

    monkeypatch.setattr(service, "_WIDEN_AFTER_S", 0)
    monkeypatch.setattr(uvicorn.Server, "main_loop", run_briefly)
    gc.unfreeze()
    try:
        await server.main_loop()
    finally:
        gc.unfreeze()
    assert frozen[0] == 0
    assert frozen[1] > 10_000
    await server.service.stop()


async def test_a_worker_short_of_open_files_loses_one_connection_and_is_unready_until_it_has_some(
    toy_model_dir: Path, lines: tuple[socket.socket, socket.socket]
) -> None:
    upper, lower = lines
    settings = Settings(model_dir=toy_model_dir)
    server = WorkerServer(create_app(Service(settings)), lower)
    await server.service.load()
    await server.on_tick(1)
    assert upper.recv(100) == READY
    hand_over(upper, lower)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        server._take_over()
        await server.on_tick(2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert upper.recv(100) == ENDED + UNREADY
    await server.on_tick(3)
    assert upper.recv(100) == READY
    assert not server.service.leaving.is_set()
    await server.service.stop()
