"""The OpenAPI document, made when somebody asks for it: its schemas are no part of starting."""

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from app.api.openapi import LATER


def install(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Let `app` tell its document from these routers, which are all it has."""
    held = list(routers)

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=[_shown(route) for router in held for route in router.routes],
            )
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI asks to do it


def _shown(route: BaseRoute) -> BaseRoute:
    """The route with what was put off."""
    if not isinstance(route, APIRoute) or LATER not in (route.openapi_extra or {}):
        return route
    return APIRoute(
        route.path,
        route.endpoint,
        methods=route.methods,
        tags=route.tags,
        name=route.name,
        **(route.openapi_extra or {})[LATER](),
    )
