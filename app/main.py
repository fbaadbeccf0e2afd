"""The service, put together: one application per settings, and the server that runs it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app import logs
from app.api import errors, health, native
from app.api.watch import Watch
from app.engine import Engine
from app.errors import error_types
from app.metrics import Metrics
from app.service import LoadEngine, Service
from app.settings import Settings

DESCRIPTION = "Distilled multilingual students: embeddings and labels in twenty-nine languages."


def create_app(settings: Settings, *, load_engine: LoadEngine = Engine.load) -> FastAPI:
    """An application that answers probes at once and work when its model is loaded."""
    metrics = Metrics(error_codes=[kind.code for kind in error_types()])
    service = Service(settings, metrics, load_engine)
    app = FastAPI(title="LightMBERT", description=DESCRIPTION, lifespan=_lifespan)
    app.state.service = service
    app.include_router(native.router)
    app.include_router(health.router)
    app.add_middleware(Watch, service=service)
    errors.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    loading = asyncio.create_task(service.load())
    yield
    await service.stop()
    await loading


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT.

    Returns:
        The exit status: 0 after a drain, 1 if the model could not be loaded.
    """
    logs.configure(settings.log_level)
    server = _Server(create_app(settings), settings)
    server.run()
    return 1 if server.service.phase == "failed" else 0


class _Server(uvicorn.Server):
    """uvicorn that still answers while it drains, and that ends when loading fails."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,  # what could be finished is finished by then
            )
        )
        self.service: Service = app.state.service
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        ticking = asyncio.create_task(super().main_loop())
        draining = asyncio.create_task(self._drain())
        await asyncio.wait({ticking, draining}, return_when=asyncio.FIRST_COMPLETED)
        self.should_exit = True
        draining.cancel()
        await ticking

    async def _drain(self) -> None:
        await self.service.leaving.wait()
        await self.service.stop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal; exit at once when there is nothing to drain or a second one."""
        if self._loop is None or self.service.leaving.is_set():
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self.service.leaving.set)
