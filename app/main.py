"""The service, put together: one application per `Service`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from app.api import admin, contracts, document, errors, heads, health, page
from app.api.watch import Watch
from app.service import Service

DESCRIPTION = "Distilled multilingual students: embeddings and labels in twenty-nine languages."


class Application(FastAPI):
    """FastAPI, with requests for work answered around it.

    What `add_middleware` adds does not see them, but for CORS, which is around everything.
    """

    def build_middleware_stack(self) -> ASGIApp:
        service: Service = self.state.service
        watch = Watch(super().build_middleware_stack(), service, contracts.HANDLERS)
        origins = service.settings.cors_origins
        if not origins:
            return watch
        return CORSMiddleware(
            watch,
            allow_origins=origins.split(","),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # clients send headers of their own
            expose_headers=["*"],
        )


def create_app(service: Service) -> FastAPI:
    """An application that answers probes at once and work when its model is loaded."""
    app = Application(
        title="LightMBERT",
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # `page` has one that loads nothing from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a POST sent elsewhere is sent twice, body and all
        telemetry={"tracing": False, "metrics": False, "logs": False},  # nobody is told
    )
    app.state.service = service
    app.state.dialects = contracts.DIALECTS
    routers = (*contracts.ROUTERS, heads.router, admin.router, health.router, page.router)
    for router in routers:
        app.include_router(router)
    document.install(app, routers)
    errors.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    loading = asyncio.create_task(service.load())
    yield
    await service.stop()
    await loading
