"""The one place that knows both errors and statuses, and answers errors in the caller's dialect."""

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import groupby

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app import errors
from app.api.dialects import NATIVE, Dialect, Told, dialect_of
from app.errors import LightMBERTError, shortened
from app.service import Service

logger = logging.getLogger(__name__)

STATUS_BY_ERROR: dict[type[LightMBERTError], int] = {
    errors.LightMBERTError: 500,
    errors.InputError: 422,
    errors.NoTextsError: 422,
    errors.TextTooLongError: 422,
    errors.TooManyTextsError: 422,
    errors.TooManyTokensError: 422,
    errors.BodyTooLargeError: 413,
    errors.EncodedBodyError: 415,
    errors.MalformedBodyError: 400,
    errors.UnknownTaskError: 422,
    errors.UnknownModelError: 422,
    errors.UnauthorizedError: 401,
    errors.ForbiddenError: 403,
    errors.ConflictError: 409,
    errors.OverloadedError: 429,
    errors.DeadlineExceededError: 504,
    errors.NotReadyError: 503,
    errors.InferenceError: 500,
    errors.ModelError: 422,
    errors.ManifestError: 422,
    errors.VariantError: 422,
    errors.SelfTestError: 422,
}

CLIENT_GONE = 499
NOT_READY_RETRY_S = 1.0

TAGS = ("(text)", "(pair)", "(ids)", "(several)", "(names)", "(described)")
"""Of unions in bodies. Not words that a caller would use as a key."""

_MESSAGES = {"extra_forbidden": "unknown key", "model_type": "Input should be an object"}
"""In place of pydantic's, of which the second may name a class of ours."""

_MOST_ERRORS = 100
"""A body with more of them has that many unknown keys: its lists stop at their first error."""


def error_response(
    told: Told, dialect: Dialect = NATIVE, headers: Mapping[str, str] | None = None
) -> Response:
    status, body = dialect.said(told)
    return Response(orjson.dumps(body), status, dict(headers or {}), "application/json")


def install(app: FastAPI) -> None:
    """Answer every error, the framework's own included, in the caller's dialect."""
    app.add_exception_handler(LightMBERTError, _on_our_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_hang_up)
    app.add_exception_handler(Exception, answer_to_bug)


def answer_to(request: Request, error: LightMBERTError | ClientDisconnect) -> Response:
    """What the caller is told of an error that was raised on purpose."""
    on_error = _on_our_error if isinstance(error, LightMBERTError) else _on_hang_up
    return on_error(request, error)


def input_error(error: ValidationError) -> LightMBERTError:
    """What pydantic found wrong with a body, as one of ours: 400 if it is no JSON at all."""
    if error.error_count() > _MOST_ERRORS:  # to spell out a million takes seconds and a gigabyte
        return errors.InputError(f"the body has {error.error_count()} unknown or wrong keys")
    first, *others = error.errors(include_url=False, include_context=False, include_input=False)
    if first["type"] == "json_invalid":
        return errors.MalformedBodyError(first["msg"])
    param = _path(first["loc"])
    message = _MESSAGES.get(first["type"], first["msg"])
    more = f" (and {len(others)} more)" if others else ""
    found = errors.InputError(f"{param or 'the body'}: {message}{more}", param=param)
    found.as_sent = True
    return found


def _path(location: Sequence[int | str]) -> str | None:
    """`("texts", 3)` as `texts[3]`; the tags in brackets, by which kinds of text are
    told apart, go.
    """
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in TAGS:
            path += f".{shortened(part)}" if path else shortened(part)
    return path or None


def _on_our_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LightMBERTError), "registered for our errors only"
    _count(request, error.code)
    headers: dict[str, str] = {}
    if isinstance(error, errors.UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, errors.OverloadedError | errors.NotReadyError):
        seconds = getattr(error, "retry_after_s", NOT_READY_RETRY_S)
        headers["retry-after"] = str(max(1, math.ceil(seconds)))
        headers["retry-after-ms"] = str(max(1, math.ceil(seconds * 1_000)))
    told = Told(STATUS_BY_ERROR[type(error)], error.code, str(error), error.param, error.as_sent)
    return error_response(told, dialect_of(request), headers)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for the framework's errors only"
    path = request.url.path
    code, message = {
        404: ("not_found", f"there is no route {path}{_meant(request)}"),
        405: ("method_not_allowed", f"{path} does not answer {request.method}"),
    }.get(error.status_code, ("invalid_input", str(error.detail)))
    told = Told(error.status_code, code, message)
    headers = {"allow": _allowed(request)} if error.status_code == 405 else error.headers
    return error_response(told, dialect_of(request), headers)


def _allowed(request: Request) -> str:
    """The methods of all routes of this path; the framework names those of the first."""
    methods = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
    return ", ".join(method for method in methods if _is_route(request, method=method))


def _meant(request: Request) -> str:
    """The route that a base URL with a slash at its end, or /v1 twice, would have led to."""
    parts = [part for part, _ in groupby(filter(None, request.url.path.split("/")))]
    near = "/" + "/".join(parts)
    return (
        f"; there is {near}" if near != request.url.path and _is_route(request, path=near) else ""
    )


def _is_route(request: Request, **changes: str) -> bool:
    """Whether the request, with these changes of its scope, would be answered."""
    asked = {**request.scope, **changes}
    return any(route.matches(asked)[0] is Match.FULL for route in request.app.routes)


def _on_hang_up(request: Request, error: Exception) -> Response:
    """Sent to nobody; the status is for our own counting."""
    return Response(status_code=CLIENT_GONE)


def answer_to_bug(request: Request, error: Exception) -> Response:
    """An error nobody raised on purpose; the server logs where it came from."""
    _count(request, LightMBERTError.code)
    told = Told(500, LightMBERTError.code, "an error inside the service; see its log")
    return error_response(told, dialect_of(request))


def _count(request: Request, code: str) -> None:
    service: Service = request.app.state.service
    service.metrics.errors.labels(code).inc()
