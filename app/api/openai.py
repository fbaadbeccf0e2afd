"""OpenAI's contract: POST /v1/embeddings, GET /v1/models. Schemas beside routes."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, PositiveInt, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.api.answers import EncodingFormat, answer, embedding_list
from app.api.bodies import TEXT, Body, Described, as_list, several
from app.api.dialects import Dialect, Told
from app.api.keys import require_key
from app.api.openapi import WORK, documented, documented_errors
from app.api.requests import admitted, body_of, engine_for, engines, unless_gone
from app.engine import Engine
from app.errors import UnknownModelError
from app.runtime.artifact import Manifest

FOREIGN_TOKENS = (
    "these are token ids, and of another tokenizer than this model's; send the texts themselves "
    "(in langchain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
)


class OpenAIErrorDetail(Described):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorBody(Described):
    error: OpenAIErrorDetail


_CODES = {
    "unknown_model": "model_not_found",
    "unauthorized": "invalid_api_key",
    "text_too_long": "context_length_exceeded",
    "overloaded": "rate_limit_exceeded",
}


def _tell(told: Told) -> tuple[int, dict[str, Any]]:
    status = 400 if told.status == 422 else told.status
    if told.code == "unknown_model":
        status = 404
    kind = "server_error" if status >= 500 else "invalid_request_error"
    detail = {
        "message": told.message,
        "type": "rate_limit_error" if status == 429 else kind,
        "param": told.param,
        "code": _CODES.get(told.code, told.code),
    }
    return status, {"error": detail}


OPENAI = Dialect(_tell, OpenAIErrorBody, truncates=False).naming(texts="input")
router = APIRouter(tags=["openai"])


def as_texts(sent: object) -> object:
    """One text or several as a list; token ids are refused for what they are."""
    if isinstance(sent, list) and sent and isinstance(sent[0], int | list):
        raise PydanticCustomError("token_ids", FOREIGN_TOKENS)
    return as_list(sent)


TEXTS_SCHEMA = {"anyOf": [TEXT, several(TEXT)]}
# Fail fast: millions of errors in one body would cost gigabytes, and only the first is told.
Texts = Annotated[list[str], FailFast(), BeforeValidator(as_texts), WithJsonSchema(TEXTS_SCHEMA)]


class EmbeddingsRequest(Body):
    input: Texts
    """One text, or several."""
    model: str | None = None
    """A name out of GET /v1/models; may be left out where one model is served."""
    dimensions: PositiveInt | None = None
    """Keep only the first dimensions; vectors are scaled to length 1 after the cut."""
    encoding_format: EncodingFormat | None = None
    """base64: the little-endian float32 bytes of each vector. Faster, and what OpenAI's own client
    asks for. By default `float`."""
    user: str | None = None
    """Read by nobody."""


EMBEDDINGS_ANSWER: dict[str, Any] = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.12, -0.55, 0.31, 0.77]}],
    "model": "lightmbert-mini",
    "usage": {"prompt_tokens": 9, "total_tokens": 9},
}


class EmbeddingObject(Described):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class TokenUsage(Described):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(Described):
    model_config = ConfigDict(json_schema_extra={"example": EMBEDDINGS_ANSWER})

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: TokenUsage


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    """Unix seconds; 0 where the model's folder gives no date."""
    owned_by: str = "lightmbert"


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


EXAMPLES: dict[str, dict[str, Any]] = {
    "two languages": {
        "input": ["The bus is late.", "Basi limechelewa."],
        "model": "lightmbert-mini",
    },
    "smaller": {"input": "नमस्ते दुनिया", "dimensions": 64, "encoding_format": "base64"},
}


@router.post(
    "/v1/embeddings",
    **documented(EmbeddingsRequest, EmbeddingsResponse, examples=EXAMPLES, dialects=[OPENAI]),
)
async def embeddings(request: Request) -> Response:
    """Embed texts as OpenAI's service does. A text that is too long is an error, never cut."""
    terms = admitted(request)
    body = await body_of(request, EmbeddingsRequest)
    engine = engine_for(request, body.model)
    work = engine.embed(body.input, dimensions=body.dimensions, terms=terms)
    embedded = await unless_gone(request, work)
    name, how = engine.manifest.name, body.encoding_format or "float"
    return answer(engine.metrics, lambda: embedding_list(name, embedded, how))


_MODEL_PARAMETER = {
    "name": "model",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "A name out of GET /v1/models.",
}
_MODEL_ERRORS = documented_errors(WORK, OPENAI)


@router.get("/v1/models", responses={status: _MODEL_ERRORS[status] for status in (401, 503)})
async def list_models(request: Request) -> Models:
    """The models that are served here."""
    require_key(request)
    return Models(data=[_described(engine) for engine in engines(request)])


@router.get(
    "/v1/models/{model}",
    responses={status: _MODEL_ERRORS[status] for status in (401, 404, 503)},
    openapi_extra={"parameters": [_MODEL_PARAMETER]},
)
async def show_model(request: Request) -> Model:
    """One model that is served here."""
    require_key(request)
    wanted = request.path_params["model"]
    served = {engine.manifest.name: engine for engine in engines(request)}
    if wanted not in served:
        raise UnknownModelError(model=wanted, known=sorted(served))
    return _described(served[wanted])


def _described(engine: Engine) -> Model:
    return Model(id=engine.manifest.name, created=created_at(engine.manifest))


def created_at(manifest: Manifest) -> int:
    """When the student was made, in Unix seconds; 0 where the manifest says no date."""
    with suppress(ValueError):
        created = datetime.fromisoformat(manifest.provenance.created)
        return int(created.replace(tzinfo=UTC).timestamp())
    return 0


HANDLERS = {"/v1/embeddings": embeddings}
DIALECTS = {"/v1": OPENAI}
