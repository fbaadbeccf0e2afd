"""What every contract needs of a request: a bounded body, an engine, a caller who is there."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from app.admission import Terms
from app.api.errors import input_error
from app.api.terms import read_terms
from app.engine import Engine
from app.errors import BodyTooLargeError
from app.service import Service

_SMALL_BYTES = 1_024
"""A smaller body is taken for an interactive request before it is read."""

BodyT = TypeVar("BodyT", bound=BaseModel)
ResultT = TypeVar("ResultT")


async def current_service(request: Request) -> Service:  # a plain function would get a thread
    service: Service = request.app.state.service
    return service


async def current_engine(service: Annotated[Service, Depends(current_service)]) -> Engine:
    """The engine, or a 503 before the body is read."""
    return service.engine


ServiceDep = Annotated[Service, Depends(current_service)]
EngineDep = Annotated[Engine, Depends(current_engine)]


async def current_terms(request: Request, engine: EngineDep) -> Terms:
    """When the caller wants its answer; or a 429 before the body is read."""
    settings = engine.settings
    terms = read_terms(
        request.headers, max_wait_s=settings.max_wait_s, max_timeout_s=settings.max_timeout_s
    )
    small = int(_announced(request) or _SMALL_BYTES) < _SMALL_BYTES
    engine.check_load(replace(terms, priority=terms.priority or ("interactive" if small else None)))
    return terms


TermsDep = Annotated[Terms, Depends(current_terms)]


def body_of(model: type[BodyT]) -> Callable[[Request, Service], Awaitable[BodyT]]:
    """A dependency that reads, bounds and validates the body, straight from its bytes."""

    async def body(request: Request, service: ServiceDep) -> BodyT:
        raw = await _read(request, limit_bytes=service.settings.max_body_bytes)
        try:
            return model.model_validate_json(raw)
        except ValidationError as error:
            raise input_error(error) from None  # the cause quotes the caller's text

    return body


async def unless_gone(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of `work`, which is cancelled as soon as the caller hangs up.

    Raises:
        ClientDisconnect: the caller did; nobody is left to be told.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _read(request: Request, *, limit_bytes: int) -> bytes:
    if int(_announced(request) or 0) > limit_bytes:
        raise BodyTooLargeError(limit_bytes=limit_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise BodyTooLargeError(limit_bytes=limit_bytes)
    return bytes(body)


def _announced(request: Request) -> str:
    """The length of the body as its header says, if it says a number."""
    length = request.headers.get("content-length", "")
    return length if length.isascii() and length.isdigit() and len(length) < 20 else ""


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
