"""Counts and times the requests for work, around everything else, and hands them on directly."""

from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import CLIENT_GONE, answer_to
from app.errors import LightMBERTError
from app.metrics import EMBED_TASK, STATUSES
from app.service import Service

Handler = Callable[[Request], Awaitable[Response]]


class Watch:
    """Pure ASGI middleware. A POST to one of `handlers` goes straight to its handler.

    The framework's routing, exit stacks and dependency solving around it would cost as much as
    a short text's share of the forward pass; what they are for, these handlers do themselves.
    """

    def __init__(self, app: ASGIApp, service: Service, handlers: Mapping[str, Handler]) -> None:
        self._app = app
        self._service = service
        self._handlers = handlers
        requests, seconds = service.metrics.requests, service.metrics.request_duration_seconds
        self._counters = {(p, s): requests.labels(p, s) for p in handlers for s in STATUSES}
        self._seconds = {("/embed", EMBED_TASK): seconds.labels("/embed", EMBED_TASK)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get(scope["path"]) if scope["type"] == "http" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        started_at = perf_counter()
        status = 500  # unless an answer is begun

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._service.enter()
        try:
            if scope["method"] == "POST":
                await _answer(handler, scope, receive, observe)
            else:
                await self._app(scope, receive, observe)
        except ClientDisconnect:  # it left while the answer was being sent
            status = CLIENT_GONE
        finally:
            self._service.leave()
            self._record(scope, str(status), perf_counter() - started_at)

    def _record(self, scope: Scope, status: str, seconds: float) -> None:
        path = scope["path"]
        if counter := self._counters.get((path, status)):
            counter.inc()
        if status == "200":
            task = scope.get("state", {}).get("task", EMBED_TASK)
            if (path, task) not in self._seconds:
                metric = self._service.metrics.request_duration_seconds
                self._seconds[path, task] = metric.labels(path, task)
            self._seconds[path, task].observe(seconds)


async def _answer(handler: Handler, scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    try:
        response = await handler(request)
    except (LightMBERTError, ClientDisconnect) as error:  # any other is a bug, and told further out
        response = answer_to(request, error)
    await response(scope, receive, send)
