"""Several worker processes behind one port: start, feed, replace and end them.

The supervisor accepts every connection and hands it to the ready worker that has the fewest, so
that a few long-lived connections are shared out evenly, and none waits at a worker that is
loading, dead, or silent for longer than `SILENT_S`. Only when no worker is ready, another gets
it, to say so.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic

from app import shared_metrics
from app.handover import ENDED, FULL, READY, UNREADY, hand_over
from app.settings import Settings

logger = logging.getLogger(__name__)

MAX_DEATHS = 5
DEATHS_WITHIN_S = 60.0
"""More deaths in less time are no accident, and the service ends."""

SILENT_S = 3.0
"""A worker says something every second. One that has not for so long gets no more connections."""

_PATIENCE_S = 5.0
"""Beyond the time to drain in, before a worker that was told to end is killed."""
_RETRY_S = 0.01
_SHORTAGE_S = 0.1
"""Before the next try to accept, when there are too many open files."""
_RESTART_S = 5.0
"""Before the next try to start a worker, when the system has no process or file to spare."""


def supervise(settings: Settings, listening: socket.socket) -> int:
    """Run `settings.workers` workers until SIGTERM or SIGINT; the exit status, as of `serve`."""
    with tempfile.TemporaryDirectory(prefix="lightmbert-", ignore_cleanup_errors=True) as folder:
        return asyncio.run(Supervisor(settings, listening, Path(folder)).run())


class Worker:
    """One process, as its supervisor sees it."""

    def __init__(
        self, index: int, process: asyncio.subprocess.Process, line: socket.socket
    ) -> None:
        self.index = index
        self.process = process
        self.line = line
        self.ready = False
        self.was_ready = False
        self.accepts = True
        self.connections = 0
        self._heard_at = monotonic()

    @property
    def silent(self) -> bool:
        return monotonic() - self._heard_at > SILENT_S

    def listen(self) -> None:
        """Take in what it has to say."""
        try:
            news = self.line.recv(4_096)
        except BlockingIOError:
            return
        except OSError:
            news = b""
        if not news:  # it ends; its process says how
            self.accepts = False
            asyncio.get_running_loop().remove_reader(self.line)
        self._heard_at = monotonic()
        for said in (news[at : at + 1] for at in range(len(news))):
            if said in (READY, UNREADY):
                self.ready = said == READY
                self.was_ready |= self.ready
            elif said == ENDED:
                self.connections -= 1
            elif said == FULL:
                self.accepts = False

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


class Supervisor:
    """`run` starts the workers, keeps their number, and returns when all have ended."""

    def __init__(self, settings: Settings, listening: socket.socket, folder: Path) -> None:
        self._settings = settings
        self._listening = listening
        self._folder = folder
        self._workers: dict[int, Worker] = {}
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._stillborn: set[int] = set()
        self._served = False
        self._held: socket.socket | None = None
        self._short = False
        self._stopping = asyncio.Event()
        self._signalled = False
        self._forced = False
        self._failed = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        self._listening.setblocking(False)
        loop.add_reader(self._listening, self._accept)
        async with asyncio.TaskGroup() as group:
            for index in range(self._settings.workers):
                group.create_task(self._keep(index))
        self._close()
        return 1 if self._failed else 0

    async def _keep(self, index: int) -> None:
        """One worker after another under this number, until the service stops."""
        while not self._stopping.is_set():
            try:
                worker = await self._start(index)
            except OSError as error:  # no process, memory or open file is to be had
                logger.error("a worker cannot start", extra={"worker": index, "reason": str(error)})
                self._count_death(index)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _RESTART_S)
            else:
                await self._watch(worker)

    async def _watch(self, worker: Worker) -> None:
        """Until its end, and say what that means."""
        if self._stopping.is_set():  # meanwhile
            worker.signal(signal.SIGTERM)
        status = await worker.process.wait()
        self._bury(worker)
        if not self._stopping.is_set():
            logger.error("a worker ended", extra={"worker": worker.index, "status": status})
            self._served |= worker.was_ready
            self._count_death(worker.index)
        elif status not in (0, -signal.SIGTERM) and not self._forced:
            self._failed = True

    async def _start(self, index: int) -> Worker:
        ours, theirs = socket.socketpair()
        with ExitStack() as if_it_fails, theirs:
            if_it_fails.enter_context(ours)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "app.worker"),
                *map(str, (index, self._settings.workers, theirs.fileno(), os.getpid())),
                env={**os.environ, **self._environment()},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # or a terminal would signal it too
            )
            if_it_fails.pop_all()
        ours.setblocking(False)
        worker = self._workers[index] = Worker(index, process, ours)
        asyncio.get_running_loop().add_reader(ours, self._hear, worker)
        return worker

    def _environment(self) -> dict[str, str]:
        """What was set, the way it is set; what follows from the CPUs is for the worker to say."""
        return self._settings.variables() | {shared_metrics.FOLDER: str(self._folder)}

    def _hear(self, worker: Worker) -> None:
        worker.listen()
        if self._stopping.is_set() and not self._takers:
            self._make_last_call(worker)

    def _bury(self, worker: Worker) -> None:
        del self._workers[worker.index]
        asyncio.get_running_loop().remove_reader(worker.line)
        worker.line.close()
        shared_metrics.leave(self._folder, worker.index)

    def _count_death(self, index: int) -> None:
        """Decide whether a worker that ended by itself, or could not start, is replaced."""
        if self._stopping.is_set():
            return
        self._deaths.append(monotonic())
        self._stillborn.add(index)
        self._served |= any(each.was_ready for each in self._workers.values())
        many = len(self._deaths) == MAX_DEATHS
        if not self._served and len(self._stillborn) == self._settings.workers:
            self._give_up("no worker could start")
        elif many and self._deaths[-1] - self._deaths[0] < DEATHS_WITHIN_S:
            self._give_up(f"{MAX_DEATHS} workers ended within {DEATHS_WITHIN_S} s")

    def _give_up(self, reason: str) -> None:
        logger.critical("the service ends", extra={"reason": reason})
        self._failed = True
        self._stop()

    def _told_to_stop(self) -> None:
        if self._signalled:
            self._forced = True
            self._signal_all(signal.SIGKILL)
        elif not self._stopping.is_set():
            self._stop()
        self._signalled = True

    def _stop(self) -> None:
        self._stopping.set()
        self._signal_all(signal.SIGTERM)
        time_s = self._settings.drain_delay_s + self._settings.drain_timeout_s + _PATIENCE_S
        asyncio.get_running_loop().call_later(time_s, self._signal_all, signal.SIGKILL)

    def _signal_all(self, number: int) -> None:
        for worker in self._workers.values():
            worker.signal(number)

    def _accept(self) -> None:
        """Hand one connection to one worker, or come back to it when somebody can take it."""
        try:
            connection = self._held or self._listening.accept()[0]
        except (BlockingIOError, ConnectionError):  # nobody calls, or no longer
            return
        except OSError as error:  # too many open files
            self._tell_shortage(str(error))
            self._pause(_SHORTAGE_S)
            return
        self._tell_shortage(None)
        self._held = None if self._hand_over(connection, self._takers) else connection
        if self._held is not None:
            self._pause(_RETRY_S)

    def _tell_shortage(self, reason: str | None) -> None:
        """Log when connections can no longer be accepted, and when they can again."""
        if reason and not self._short:
            logger.error("cannot accept", extra={"reason": reason})
        elif self._short and not reason:
            logger.info("accepts again")
        self._short = reason is not None

    def _hand_over(self, connection: socket.socket, takers: list[Worker]) -> bool:
        heard = [worker for worker in takers if not worker.silent]
        ready = [worker for worker in heard if worker.ready]
        for worker in sorted(ready or heard or takers, key=lambda each: each.connections):
            with suppress(OSError):  # it cannot keep up, or has just died
                hand_over(worker.line, connection)
                worker.connections += 1
                connection.close()
                return True
        return False

    @property
    def _takers(self) -> list[Worker]:
        return [worker for worker in self._workers.values() if worker.accepts]

    def _make_last_call(self, worker: Worker) -> None:
        """Hand whoever still waits at the port to the last worker, who tells them, and close it."""
        if self._listening.fileno() < 0:
            return
        with suppress(OSError):  # until nobody waits, or the worker has gone
            while True:
                with self._held or self._listening.accept()[0] as connection:
                    self._held = None
                    hand_over(worker.line, connection)
        self._close()

    def _pause(self, time_s: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening)
        loop.call_later(time_s, self._resume)

    def _resume(self) -> None:
        if self._listening.fileno() < 0:
            return
        asyncio.get_running_loop().add_reader(self._listening, self._accept)
        if self._held is not None:
            self._accept()

    def _close(self) -> None:
        if self._listening.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self._listening)
        self._listening.close()
        if self._held is not None:
            self._held.close()
