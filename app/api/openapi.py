"""What OpenAPI says of routes that read and write bytes themselves."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from app.api.dialects import NATIVE, Dialect, Told
from app.api.terms import PRIORITY_HEADER, TIMEOUT_HEADER
from app.errors import TRUNCATION_CURE
from app.metrics import PRIORITIES

_ERRORS = (
    Told(400, "malformed_body", "Invalid JSON: expected value at line 1 column 1"),
    Told(401, "unauthorized", "a valid key is needed: Authorization: Bearer <key>"),
    Told(403, "forbidden", "nobody may do this: LIGHTMBERT_ADMIN_KEY is not set"),
    Told(413, "body_too_large", "the body is larger than 8388608 bytes"),
    Told(
        422,
        "text_too_long",
        f"texts[3] has 912 tokens; this model accepts 512{TRUNCATION_CURE}",
        "texts[3]",
    ),
    Told(
        422,
        "unknown_model",
        "model 'big' is not served here; served: lightmbert-mini",
        "model",
    ),
    Told(429, "overloaded", "this would wait for 12.031 s; the limit is 1 s"),
    Told(500, "inference_failed", "the model failed on a batch of 8x512 tokens"),
    Told(503, "not_ready", "the model is loading"),
    Told(504, "deadline_exceeded", "there was no answer within the 200 ms that you set"),
)
_WORK = tuple(told for told in _ERRORS if told.status != 403)
"""What a request for work may meet."""

_MEANINGS = {
    400: "The body is not JSON.",
    401: "A key is needed and was not carried (`LIGHTMBERT_API_KEY`).",
    403: "No key opens this here (`LIGHTMBERT_ADMIN_KEY`).",
    413: "The body is larger than the limit in GET /info.",
    422: "A field is wrong; `param` names it.",
    429: "The answer would take too long. Come back after `Retry-After` seconds.",
    500: "The model failed; the request itself is valid.",
    503: "The model is loading, or the service is shutting down.",
    504: "The deadline that the caller set passed before the answer.",
}
_RETRY_HEADERS = {
    "Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds."},
    "retry-after-ms": {"schema": {"type": "integer", "minimum": 1}, "description": "Milliseconds."},
}
_PARAMETERS = [
    {
        "name": PRIORITY_HEADER,
        "in": "header",
        "schema": {"type": "string", "enum": list(PRIORITIES)},
        "description": "Which share of the time the request is served from; by default its size "
        "decides. Large requests are `bulk`, and never in the way of others.",
    },
    {
        "name": TIMEOUT_HEADER,
        "in": "header",
        "schema": {"type": "integer", "minimum": 1},
        "description": "Milliseconds within which the answer is of use: 429 at once if it will "
        "take longer, 504 if it does.",
    },
]


def documented(
    request: type[BaseModel],
    response: type[BaseModel],
    *,
    examples: dict[str, dict[str, Any]],
    dialect: Dialect = NATIVE,
) -> dict[str, Any]:
    """Arguments for the route's decorator: both schemas, examples, and every status."""
    shown = {name: {"value": value} for name, value in examples.items()}
    body = {"schema": request.model_json_schema(), "examples": shown}
    ok = {"model": response, "description": "Results in the order of the texts."}
    return {
        "response_model": None,
        "responses": {200: ok} | documented_errors(_WORK, dialect),
        "openapi_extra": {
            "parameters": _PARAMETERS,
            "requestBody": {"required": True, "content": {"application/json": body}},
        },
    }


def documented_error(status: int, dialect: Dialect = NATIVE) -> dict[str, Any]:
    """One error, by its native status, with its meaning, an example, and when to come back."""
    [error] = documented_errors(
        [told for told in _ERRORS if told.status == status], dialect
    ).values()
    return error


def documented_errors(
    told: Iterable[Told] = _WORK, dialect: Dialect = NATIVE
) -> dict[int | str, dict[str, Any]]:
    """Each status that the dialect gives these errors; the first of them is its example."""
    described: dict[int | str, dict[str, Any]] = {}
    for error in told:
        status, body = dialect.said(error)
        meaning = _MEANINGS[error.status]
        if status in described:
            if meaning not in described[status]["description"]:
                described[status]["description"] += f" {meaning}"
            continue
        described[status] = {
            "model": dialect.error_body,
            "description": meaning,
            "content": {"application/json": {"example": body}},
        }
        if status in (429, 503):
            described[status]["headers"] = _RETRY_HEADERS
    return described
