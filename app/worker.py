"""One worker of several: the whole service, on its share of the CPUs, without a port of its own.

The supervisor accepts connections and hands them over. When the line to it ends, the worker
drains and ends too, so that none outlives its supervisor.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
from types import FrameType

from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app import logs, shared_metrics
from app.handover import ALIVE, ENDED, FULL, READY, UNREADY, take_over
from app.main import create_app
from app.runtime.cpus import take_share
from app.server import Server
from app.service import Service
from app.settings import load_settings

logger = logging.getLogger(__name__)

_TICKS_PER_S = 10
"""uvicorn's."""


class WorkerServer(Server):
    """Serves the connections that come down the line."""

    def __init__(self, app: FastAPI, line: socket.socket) -> None:
        super().__init__(app)
        self._line = line
        self._unsaid = bytearray()
        self._told_ready = False
        self._short = False
        """Whether too many files are open, since a connection was lost to that."""

    async def main_loop(self) -> None:
        loop = asyncio.get_running_loop()
        self._line.setblocking(False)
        loop.add_reader(self._line, self._take_over)
        await super().main_loop()
        loop.remove_reader(self._line)

    async def on_tick(self, counter: int) -> bool:
        if self._short:
            self._short = not _one_more_file()
        self._tell_readiness()
        self._tell(ALIVE if counter % _TICKS_PER_S == 0 else b"")
        return await super().on_tick(counter)

    def _tell_readiness(self) -> None:
        ready = self.service.ready and not self._short
        if ready != self._told_ready:
            self._told_ready = ready
            self._tell(READY if ready else UNREADY)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain, however often it is said: a whole group may be signalled, supervisor included."""
        if not self.service.leaving.is_set():
            super().handle_exit(sig, frame)

    def _stop_accepting(self) -> None:
        self._tell(FULL)

    def _take_over(self) -> None:
        try:
            connection = take_over(self._line)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(str(error))
            return
        if connection is None:
            asyncio.get_running_loop().remove_reader(self._line)
            self.service.leaving.set()
            return
        self._adopt(connection)

    def _lose(self, reason: str) -> None:
        """Give a connection up, and let other workers have the next ones."""
        if not self._short:
            logger.error("connections are lost", extra={"reason": reason})
        self._short = True
        self.ended()
        self._tell_readiness()

    def _protocol(self) -> HttpToolsProtocol:
        return _Reporting(self)

    def _tell(self, news: bytes = b"") -> None:
        """Send `news`, and what could not be sent before, without waiting."""
        self._unsaid += news
        try:
            while self._unsaid:
                del self._unsaid[: self._line.send(self._unsaid)]
        except BlockingIOError:
            pass  # the next tick tries again
        except OSError:  # nobody is there to be told
            self._unsaid.clear()

    def ended(self) -> None:
        self._tell(ENDED)


class _Reporting(HttpToolsProtocol):
    """Says when its connection has ended, so that the supervisor knows who has how many."""

    def __init__(self, server: WorkerServer) -> None:
        super().__init__(server.config, server.server_state, server.lifespan.state)
        self._ended = server.ended

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._ended()


def _one_more_file() -> bool:
    """Whether this process may open one."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True


def work(index: int, of: int, line: socket.socket, *, supervisor: int) -> int:
    """Be worker `index` of `of`; the exit status, as of `serve`.

    Args:
        index: from 0.
        of: as many as there are.
        line: to the supervisor.
        supervisor: its process id.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the supervisor leads
    take_share(index, of)
    shared_metrics.join(index)
    settings = load_settings(workers=1)
    logs.configure(settings.log_level, worker=index)
    server = WorkerServer(create_app(Service(settings)), line)
    status = server.serve_on()
    if os.getppid() != supervisor:  # it is gone, and nobody else is left to clean up
        shutil.rmtree(os.environ[shared_metrics.FOLDER], ignore_errors=True)
    return status


if __name__ == "__main__":
    _index, _of, _descriptor, _supervisor = map(int, sys.argv[1:])
    _line = socket.socket(fileno=_descriptor)
    raise SystemExit(work(_index, _of, _line, supervisor=_supervisor))
