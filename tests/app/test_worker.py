"""What a worker tells its supervisor by itself."""

import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.handover import ALIVE, ENDED, hand_over
from app.main import create_app
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
    server = WorkerServer(create_app(settings), settings, lower)
    for tick in range(20):  # of 0.1 s
        await server.on_tick(tick)
    assert upper.recv(100) == ALIVE * 2


async def test_a_connection_that_could_not_be_taken_counts_as_ended(
    toy_model_dir: Path, lines: tuple[socket.socket, socket.socket]
) -> None:
    upper, lower = lines
    settings = Settings(model_dir=toy_model_dir)
    server = WorkerServer(create_app(settings), settings, lower)
    hand_over(upper, lower)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        server._take_over()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert upper.recv(100) == ENDED
    assert not server.service.leaving.is_set()
