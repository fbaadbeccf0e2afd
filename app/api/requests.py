"""What every contract needs of a request: a bounded body, an engine, a caller who is there."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from app.admission import Terms
from app.api.errors import input_error
from app.api.keys import require_key
from app.api.terms import read_terms
from app.api.watch import hold
from app.engine import Engine
from app.errors import BodyTooLargeError, EncodedBodyError, MalformedBodyError
from app.metrics import Priority
from app.service import Service

_SMALL_BYTES = 256
"""A smaller body is taken for an interactive request before it is read: few texts fit into it."""

_PATIENCE_S = 0.2
"""After so long without an answer, the caller is watched."""

BodyT = TypeVar("BodyT", bound=BaseModel)
ResultT = TypeVar("ResultT")


async def current_service(request: Request) -> Service:  # a plain function would get a thread
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(current_service)]


def admitted(request: Request) -> Terms:
    """When the caller wants its answer; or an error before the body is read.

    Raises:
        UnauthorizedError: the caller carries no key where one is needed.
        NotReadyError: no student works now.
        OverloadedError: one text like those that wait would be late, whichever student it is for.
        InputError: a header is malformed.
    """
    require_key(request)
    service: Service = request.app.state.service
    terms = read_terms(request.headers, service.settings)
    small = int(_announced(request) or _SMALL_BYTES) < _SMALL_BYTES
    assumed: Priority | None = "interactive" if small else None
    service.check_load(terms if terms.priority else replace(terms, priority=assumed))
    return terms


def engine_for(request: Request, model: str | None) -> Engine:
    """The engine of the student that a body names, or of the default one.

    The request holds it until its handler returns, see `app.api.watch`.

    Raises:
        UnknownModelError, NotReadyError.
    """
    service: Service = request.app.state.service
    served = service.student(model)
    hold(request.scope, served)
    return served.engine


def engines(request: Request) -> list[Engine]:
    """Every engine that serves a model here, the default first.

    Raises:
        NotReadyError.
    """
    service: Service = request.app.state.service
    return [served.engine for served in service.at_work()]


async def body_of(request: Request, model: type[BodyT]) -> BodyT:
    """Read, bound and validate the body, straight from its bytes.

    Raises:
        BodyTooLargeError, EncodedBodyError, MalformedBodyError, InputError.
    """
    return parsed(await raw_body(request), model)


async def raw_body(request: Request) -> bytes:
    """The body as it came.

    Raises:
        BodyTooLargeError: it has more than `max_body_bytes`.
        EncodedBodyError: it is compressed.
    """
    service: Service = request.app.state.service
    limit_bytes = service.settings.max_body_bytes
    if int(_announced(request) or 0) > limit_bytes:
        raise BodyTooLargeError(limit_bytes=limit_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise BodyTooLargeError(limit_bytes=limit_bytes)
    if not body.startswith(b"{"):  # as nearly all bodies do, and then no header need be read
        _refuse_if_encoded(request)
    return bytes(body)


def _refuse_if_encoded(request: Request) -> None:
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise EncodedBodyError(coding=coding)


def parsed(raw: bytes, model: type[BodyT]) -> BodyT:
    """A body out of its bytes.

    Raises:
        MalformedBodyError, InputError.
    """
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise input_error(error) from None  # the cause quotes the caller's text


def loaded(raw: bytes) -> object:
    """A body as plain data, where its shape says which model it is of.

    Raises:
        MalformedBodyError.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedBodyError(f"Invalid JSON: {error.msg}") from None


def checked(sent: object, model: type[BodyT]) -> BodyT:
    """A body out of plain data.

    Raises:
        InputError.
    """
    try:
        return model.model_validate(sent)
    except ValidationError as error:
        raise input_error(error) from None


async def unless_gone(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of `work`, which is cancelled when the caller hangs up.

    Whether it did is asked only of work that takes a while: most is done sooner than a task to
    listen for it is made.

    Raises:
        ClientDisconnect: the caller did; nobody is left to be told.
    """
    caller = _Caller(request)
    listening = asyncio.get_running_loop().call_later(_PATIENCE_S, caller.listen)
    try:
        return await work
    except asyncio.CancelledError:
        if caller.gone:
            caller.forget()
            raise ClientDisconnect from None
        raise
    finally:
        listening.cancel()
        caller.leave()


class _Caller:
    """Cancels the current task when the caller hangs up."""

    def __init__(self, request: Request) -> None:
        self.gone = False
        self._request = request
        self._working = asyncio.current_task()
        self._listening: asyncio.Task[None] | None = None

    def listen(self) -> None:
        self._listening = asyncio.ensure_future(self._hang_up())

    def leave(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None  # or it would hold this, and the request, until a collection

    def forget(self) -> None:
        """The cancellation has arrived and goes no further."""
        if self._working is not None:
            self._working.uncancel()

    async def _hang_up(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        if self._working is not None:
            self.gone = True
            self._working.cancel()


def _announced(request: Request) -> str:
    """The length of the body as its header says, if it says a number."""
    length = request.headers.get("content-length", "")
    return length if length.isascii() and length.isdigit() and len(length) < 20 else ""
