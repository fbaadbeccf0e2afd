"""Counts and times the requests to the native routes, around everything else."""

from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import CLIENT_GONE
from app.metrics import EMBED_TASK, ROUTES, STATUSES
from app.service import Service


class Watch:
    """Pure ASGI middleware: Starlette's own base class costs a task group per request."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in ROUTES:
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
            await self._app(scope, receive, observe)
        except ClientDisconnect:  # it left while the answer was being sent
            status = CLIENT_GONE
        finally:
            self._service.leave()
            self._record(scope, status, perf_counter() - started_at)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        metrics, route = self._service.metrics, scope["path"]
        if str(status) in STATUSES:
            metrics.requests.labels(route, str(status)).inc()
        if status == 200:
            task = EMBED_TASK if route == "/embed" else scope["state"]["task"]
            metrics.request_duration_seconds.labels(route, task).observe(seconds)
