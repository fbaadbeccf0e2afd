"""Counts and times the requests for work, around everything else, and hands them on directly."""

from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

from prometheus_client import Histogram
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import CLIENT_GONE, answer_to, answer_to_bug
from app.errors import LightMBERTError
from app.metrics import EMBED_TASK, STATUSES
from app.service import Service
from app.students import Served

Handler = Callable[[Request], Awaitable[Response]]

PAGE = "/"
"""A path at which a POST is work, and a GET is a page for people."""

_HELD = "lightmbert.held"
"""Where a request's scope says which student it holds."""


def hold(scope: Scope, served: Served) -> None:
    """Keep the student at work until the handler of this request returns."""
    before: Served | None = scope[_HELD]
    if before is not None:
        before.leave()
    served.enter()
    scope[_HELD] = served


class Watch:
    """Pure ASGI, around the framework. A POST to one of `handlers` goes straight to its handler.

    The framework's middleware, routing, exit stacks and dependency solving would cost as much as
    a short text's share of the forward pass; what they are for, these handlers do themselves.
    """

    def __init__(self, app: ASGIApp, service: Service, handlers: Mapping[str, Handler]) -> None:
        self._app = app
        self._service = service
        self._handlers = handlers
        requests = service.metrics.requests
        self._counters = {(p, s): requests.labels(p, s) for p in handlers for s in STATUSES}
        self._seconds: dict[tuple[str, str, str], Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get(scope["path"]) if scope["type"] == "http" else None
        if handler is None or (scope["path"] == PAGE and scope["method"] != "POST"):
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
            key = path, task, scope[_HELD].name
            if key not in self._seconds:
                self._seconds[key] = self._service.metrics.request_duration_seconds.labels(*key)
            self._seconds[key].observe(seconds)


async def _answer(handler: Handler, scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    scope[_HELD] = None
    try:
        response = await _answered(handler, request)
    except Exception as error:
        await answer_to_bug(request, error)(scope, receive, send)
        raise  # so that the server logs where it came from
    finally:
        held: Served | None = scope[_HELD]
        if held is not None:
            held.leave()
    await response(scope, receive, send)


async def _answered(handler: Handler, request: Request) -> Response:
    """The handler's answer, or that to an error which was raised on purpose."""
    try:
        return await handler(request)
    except (LightMBERTError, ClientDisconnect) as error:
        return answer_to(request, error)
