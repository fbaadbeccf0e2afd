"""How a supervisor decides, shown with workers that load nothing and say what they are told to."""

import asyncio
import logging
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app import workers
from app.serve import listen
from app.settings import Settings
from app.workers import Supervisor

TOY_WORKER = """#!{python}
import os, signal, socket, sys, time
from contextlib import suppress
from pathlib import Path
from app.handover import take_over
folder, index, line = Path({folder!r}), sys.argv[3], socket.socket(fileno=int(sys.argv[5]))
def drain(*_):
    time.sleep(0.05)
    (folder / "drained").touch()
    os._exit(0)
signal.signal(signal.SIGTERM, drain)
{script}
line.setblocking(False)
while True:
    line.send(b"+")
    with suppress(BlockingIOError):
        connection = take_over(line)
        if connection is None:
            break
        connection.sendall(index.encode())
        connection.close()
        line.send(b".")
    time.sleep(0.01)
"""


class Toy:
    """A supervisor, its status when it has ended, and the program that its workers run."""

    def __init__(self, supervisor: Supervisor, folder: Path, port: int) -> None:
        self.supervisor = supervisor
        self.running = asyncio.create_task(supervisor.run())
        self.program = folder / "python"
        self.port = port

    @property
    def ready(self) -> int:
        return sum(worker.ready for worker in self.supervisor._workers.values())

    def write(self, script: str = "") -> None:
        text = TOY_WORKER.format(
            python=sys.executable, folder=str(self.program.parent), script=script
        )
        self.program.write_text(text)
        self.program.chmod(0o700)

    async def call(self) -> str:
        """The index of the worker that answers."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
        return answer.decode()

    async def stop(self) -> int:
        self.supervisor._told_to_stop()
        return await asyncio.wait_for(self.running, 5)


@asynccontextmanager
async def supervised(folder: Path, *, of: int = 1, script: str = "") -> AsyncIterator[Toy]:
    with listen("127.0.0.1", 0) as listening, pytest.MonkeyPatch.context() as patch:
        port = listening.getsockname()[1]
        toy = Toy(Supervisor(Settings(workers=of), listening, folder), folder, port)
        toy.write(script)
        patch.setattr(sys, "executable", str(toy.program))
        patch.setenv("PYTHONPATH", str(Path(workers.__file__).parents[1]))
        patch.setattr(workers, "_RESTART_S", 0.05)
        try:
            yield toy
        finally:
            for worker in toy.supervisor._workers.values():
                worker.process.kill()
            toy.supervisor._stop()
            await toy.running


async def test_a_worker_that_cannot_be_started_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(tmp_path) as toy:
        await until(lambda: toy.ready)
        away = toy.program.rename(tmp_path / "away")
        toy.supervisor._workers[0].process.kill()
        await until(lambda: "a worker cannot start" in caplog.messages)
        away.rename(toy.program)
        await until(lambda: toy.ready)
        assert await toy.stop() == 0


async def test_the_first_death_leaves_the_others_time_to_load(tmp_path: Path) -> None:
    script = """
if index == "0" and not (folder / "died").exists():
    (folder / "died").touch()
    os._exit(1)
(folder / ("here" + index)).touch()
while not (folder / "here0").exists():
    time.sleep(0.01)
"""
    async with supervised(tmp_path, of=2, script=script) as toy:
        await until(lambda: toy.ready == 2 or toy.running.done())
        assert toy.ready == 2
        assert await toy.stop() == 0


async def test_a_service_that_gave_up_drains_and_fails_whatever_signal_follows(
    tmp_path: Path,
) -> None:
    async with supervised(tmp_path) as toy:
        await until(lambda: toy.ready)
        toy.supervisor._give_up("enough")
        assert await toy.stop() == 1
        assert (tmp_path / "drained").exists()


async def test_a_second_signal_does_not_turn_failure_into_success(tmp_path: Path) -> None:
    async with supervised(tmp_path, script="signal.signal(15, signal.SIG_IGN)") as toy:
        await until(lambda: toy.ready)
        toy.supervisor._give_up("enough")
        toy.supervisor._told_to_stop()
        assert await toy.stop() == 1


async def test_a_worker_that_hangs_is_passed_over_until_it_is_heard_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SILENT_S", 0.2)
    async with supervised(tmp_path, of=2) as toy:
        await until(lambda: toy.ready == 2)
        hung = toy.supervisor._workers[0]
        hung.signal(signal.SIGSTOP)
        await until(lambda: hung.silent)
        assert [await toy.call() for _ in range(4)] == ["1"] * 4
        hung.signal(signal.SIGCONT)
        await until(lambda: not hung.silent)
        async with asyncio.timeout(5):
            while await toy.call() != "0":
                pass


async def test_a_shortage_of_open_files_is_told_once_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with supervised(tmp_path) as toy:
        await until(lambda: toy.ready)
        with socket.create_connection(("127.0.0.1", toy.port)) as caller:
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            try:
                await asyncio.sleep(0.3)  # three tries
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert await asyncio.to_thread(caller.recv, 1) == b"0"
        assert caplog.messages.count("cannot accept") == 1
        assert caplog.messages.count("accepts again") == 1


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)
