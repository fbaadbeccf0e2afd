"""uvicorn as this service wants it: it answers while it drains, and tells callers to leave."""

import asyncio
import gc
import os
import socket
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.service import Service

# Longer than the proxies in front keep idle connections (mostly 60 s), so that it is they who
# close them: a request sent into a connection that we are closing is lost.
_KEEP_ALIVE_S = 75
_LINGER_S = 0.25
_LET_IN_S = 0.05
_CLOSE = (b"connection", b"close")


class Server(uvicorn.Server):
    """Drains at the first signal, or when the model cannot be used; ends at once at the second."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=1,  # what could be finished is finished by then
            )
        )
        self.service: Service = app.state.service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: list[socket.socket] = []
        self._adopting: set[asyncio.Task[None]] = set()

    @property
    def status(self) -> int:
        """The exit status: 1 if the model cannot be used."""
        return 1 if self.service.phase == "failed" else 0

    def serve_on(self, *listening: socket.socket) -> int:
        """Run until told to stop; the exit status."""
        self._listening = [each.dup() for each in listening]  # uvicorn closes its own
        self.run(list(listening))
        return self.status

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        ticking = asyncio.create_task(super().main_loop())
        draining = asyncio.create_task(self._drain())
        settling = asyncio.create_task(self._settle())
        await asyncio.wait({ticking, draining}, return_when=asyncio.FIRST_COMPLETED)
        self.should_exit = True
        draining.cancel()
        settling.cancel()
        await ticking

    async def _settle(self) -> None:
        """What is there once the model is loaded stays: no more looking through it for garbage.

        That takes a tenth of a second, in which nobody is answered.
        """
        await self.service.settled.wait()
        gc.freeze()

    async def _drain(self) -> None:
        await self.service.leaving.wait()
        self._ask_to_leave()
        await self.service.stop()
        self._stop_accepting()
        await self._linger()

    def _ask_to_leave(self) -> None:
        """End each connection with its next answer, which the caller then knows to be the last."""
        self.config.encoded_headers.append(_CLOSE)  # from the next second on
        self.server_state.default_headers.append(_CLOSE)  # until then, and of requests under way

    def _stop_accepting(self) -> None:
        """Close the port, once whoever still waits at it is let in: they would be cut off."""
        for server in self.servers:
            server.close()
        for listening in self._listening:
            listening.setblocking(False)
            with listening, suppress(OSError):  # until nobody waits
                while True:
                    self._adopt(listening.accept()[0])

    def _adopt(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere."""
        adopting = asyncio.create_task(self._connect(connection))
        self._adopting.add(adopting)
        adopting.add_done_callback(self._adopting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:  # the caller is gone already
            connection.close()
            self.ended()

    def ended(self) -> None:
        """One adopted connection has."""

    def _protocol(self) -> HttpToolsProtocol:
        return HttpToolsProtocol(self.config, self.server_state, self.lifespan.state)

    async def _linger(self) -> None:
        """Let connections between two requests send the next one and be told, not cut off."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                await asyncio.sleep(_LET_IN_S)
                while self.server_state.connections:
                    await asyncio.sleep(0.01)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal; end at once, whatever is under way, at the second."""
        if self.service.leaving.is_set():
            os._exit(self.status)
        if self._loop is None:  # there is nothing to drain yet
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self.service.leaving.set)
