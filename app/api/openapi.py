"""What OpenAPI says of routes that read and write bytes themselves."""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product
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
    Told(409, "conflict", "students/b is being loaded; wait until it is"),
    Told(413, "body_too_large", "the body is larger than 8388608 bytes"),
    Told(
        415,
        "encoded_body",
        "the body is said to be 'gzip'; send it as it is, without Content-Encoding",
        "content-encoding",
    ),
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
    Told(422, "no_texts", "texts is empty; send 1 to 2048", "texts"),
    Told(429, "overloaded", "this would wait for 12.031 s; the limit is 1 s"),
    Told(500, "inference_failed", "the model failed on a batch of 8x512 tokens"),
    Told(500, "internal", "an error inside the service; see its log"),
    Told(503, "not_ready", "the model is loading"),
    Told(504, "deadline_exceeded", "there was no answer within the 200 ms that you set"),
)
WORK = tuple(told for told in _ERRORS if told.status not in (403, 409))
"""What a request for work may meet."""

_MEANINGS = {
    400: "The body is not JSON.",
    401: "A key is needed and was not carried (`LIGHTMBERT_API_KEY`).",
    403: "Nobody may do this here, as the message says.",
    409: "It does not go with what is served, or being loaded, now.",
    413: "The body is larger than the limit in GET /info.",
    415: "The body is compressed (`Content-Encoding`).",
    422: "A field is wrong; `param` names it.",
    429: "The answer would take too long. Come back after `Retry-After` seconds.",
    500: "The service failed; the request itself is valid.",
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

MODEL_IN_QUERY: dict[str, Any] = {
    "name": "model",
    "in": "query",
    "schema": {"type": "string"},
    "description": "Which model, where the body has no word for it.",
}
TASK_IN_QUERY: dict[str, Any] = {
    "name": "task",
    "in": "query",
    "schema": {"type": "string"},
    "description": "Which head, where the body has no word for it. May be left out where the model "
    "has one, or `LIGHTMBERT_DEFAULT_TASK` is set.",
}


LATER = "later"
"""Where a route holds what makes the rest of its description, see `app.api.document`."""


def documented(
    request: type[BaseModel] | Sequence[type[BaseModel]],
    response: Any,  # noqa: ANN401 - a type, or a union of types
    *,
    examples: dict[str, Any],
    dialects: Sequence[Dialect] = (NATIVE,),
    parameters: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Arguments for the decorator of a route for work: schemas, examples, and every status.

    Args:
        request: the body, or the bodies among which the path chooses by their shape.
        response: what a 200 holds.
        examples: bodies, by what they show.
        dialects: how errors are told.
        parameters: in the query.
    """
    bodies = (request,) if isinstance(request, type) else request
    later = partial(_described_whole, bodies, response, examples, dialects, parameters)
    return {"response_model": None, "openapi_extra": {LATER: later}}


def _described_whole(
    bodies: Sequence[type[BaseModel]],
    response: Any,  # noqa: ANN401 - as in `documented`
    examples: dict[str, Any],
    dialects: Sequence[Dialect],
    parameters: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    shown = {name: {"value": value} for name, value in examples.items()}
    schemas = [_self_contained(each) for each in bodies]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    ok = {"model": response, "description": "Results in the order of the texts."}
    return {
        "response_model": None,
        "responses": {200: ok} | documented_errors(WORK, *dialects),
        "openapi_extra": {
            "parameters": [*_PARAMETERS, *parameters],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": schema, "examples": shown}},
            },
        },
    }


def _self_contained(model: type[BaseModel]) -> dict[str, Any]:
    """The schema with what it refers to in place: the document has no room for it elsewhere."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def in_place(part: Any) -> Any:  # noqa: ANN401 - JSON
        if isinstance(part, list):
            return [in_place(each) for each in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return in_place(definitions[part["$ref"].rpartition("/")[2]])
        return {key: in_place(value) for key, value in part.items()}

    whole: dict[str, Any] = in_place(schema)
    return whole


def documented_error(status: int, dialect: Dialect = NATIVE) -> dict[str, Any]:
    """One error, by its native status, with its meaning, an example, and when to come back."""
    told = [each for each in _ERRORS if each.status == status]
    [error] = documented_errors(told, dialect).values()
    return error


def documented_errors(told: Iterable[Told], *dialects: Dialect) -> dict[int | str, dict[str, Any]]:
    """Each status that the dialects give these errors; the first of them is its example."""
    described: dict[int | str, dict[str, Any]] = {}
    for dialect, error in product(dialects, told):
        status, body = dialect.said(error)
        meaning = _MEANINGS[error.status]
        entry = described.setdefault(status, _described(status, dialect, meaning, body))
        if meaning not in entry["description"]:
            entry["description"] += f" {meaning}"
        if entry["model"] != dialect.error_body:
            entry["model"] |= dialect.error_body
    return described


def _described(status: int, dialect: Dialect, meaning: str, body: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "model": dialect.error_body,
        "description": meaning,
        "content": {"application/json": {"example": body}},
    }
    return described | ({"headers": _RETRY_HEADERS} if status in (429, 503) else {})
