"""Infinity's contract: POST /embeddings, its body at POST /classify, GET /models.

Like Infinity it cuts long texts without being asked; a header says how many.
"""

import re
import time
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    NonNegativeInt,
    WithJsonSchema,
)

from app.admission import Terms
from app.api.answers import EncodingFormat, answer, embedding_list, usage_headers
from app.api.bodies import Body, Described
from app.api.dialects import Dialect, Told
from app.api.keys import require_key
from app.api.openai import (
    EMBEDDINGS_ANSWER,
    TEXTS_SCHEMA,
    EmbeddingsResponse,
    TokenUsage,
    as_texts,
    created_at,
)
from app.api.openapi import WORK, documented, documented_errors
from app.api.requests import ServiceDep, admitted, body_of, engine_for, parsed, unless_gone
from app.api.tei_predict import Prediction, predictions
from app.forward import Usage
from app.students import Served

NOT_SPECIFIED = "default/not-specified"
"""What its clients call whichever model there is."""


class InfinityErrorDetail(Described):
    message: str
    type: str | None
    param: str | None
    code: int


class InfinityError(Described):
    error: InfinityErrorDetail


class InfinityProblem(Described):
    type: str
    loc: list[str | int]
    msg: str


class InfinityProblems(Described):
    detail: list[InfinityProblem] | str


_OF_THE_BODY = ("malformed_body", "no_texts", "too_many_texts")


def _tell(told: Told) -> tuple[int, dict[str, Any]]:
    """What a schema can find wrong is a list of problems; the rest is an error with its status."""
    if told.status == 401:
        return 401, {"detail": told.message}
    if told.as_sent or told.code in _OF_THE_BODY:
        names = re.findall(r"[^.\[\]]+", told.param or "")
        place = ["body", *(int(name) if name.isdecimal() else name for name in names)]
        return 422, {"detail": [{"type": told.code, "loc": place, "msg": told.message}]}
    status = 400 if told.status == 422 else told.status
    detail = {"message": told.message, "type": told.code, "param": told.param, "code": status}
    return status, {"error": detail}


INFINITY = Dialect(_tell, InfinityError | InfinityProblems, truncates=False).naming(
    texts="input", task="?task"
)
router = APIRouter(tags=["infinity"])


class _InfinityRequest(Body):
    model: str = NOT_SPECIFIED
    """A name out of GET /models."""

    @property
    def student(self) -> str | None:
        return None if self.model == NOT_SPECIFIED else self.model


class InfinityEmbeddingsRequest(_InfinityRequest):
    input: Annotated[list[str], FailFast(), BeforeValidator(as_texts), WithJsonSchema(TEXTS_SCHEMA)]
    """One text, or several. A text above the token limit is cut at its end."""
    encoding_format: EncodingFormat = "float"
    """base64: the little-endian float32 bytes of each vector."""
    dimensions: NonNegativeInt = 0
    """Keep only the first dimensions; vectors are scaled to length 1 after the cut. 0 keeps all."""
    user: str | None = None
    """Read by nobody."""
    modality: Literal["text"] = "text"


class InfinityEmbeddingsResponse(EmbeddingsResponse):
    model_config = ConfigDict(
        json_schema_extra={"example": EMBEDDINGS_ANSWER | {"id": "infinity-1", "created": 0}}
    )

    id: str
    created: int
    """Unix seconds."""


class InfinityClassifyRequest(_InfinityRequest):
    input: Annotated[list[str], FailFast(), Field(json_schema_extra={"minItems": 1})]
    """Texts; one above the token limit is cut at its end."""
    raw_scores: bool = False
    """Give logits instead of probabilities."""


_CLASSIFY_ANSWER: dict[str, Any] = {
    "object": "classify",
    "data": [[{"score": 0.93, "label": "sports"}]],
    "model": "lightmbert-mini",
    "usage": {"prompt_tokens": 9, "total_tokens": 9},
    "id": "infinity-1",
    "created": 0,
}


class InfinityClassifyResponse(Described):
    model_config = ConfigDict(json_schema_extra={"example": _CLASSIFY_ANSWER})

    object: Literal["classify"]
    data: list[list[Prediction]]
    model: str
    usage: TokenUsage
    id: str
    created: int


class InfinityModel(BaseModel):
    id: str
    stats: dict[str, int]
    object: Literal["model"] = "model"
    owned_by: Literal["infinity"] = "infinity"
    created: int
    backend: str = "onnxruntime"
    capabilities: list[str]


class InfinityModels(BaseModel):
    data: list[InfinityModel]
    object: Literal["list"] = "list"


def _stamped(content: dict[str, Any]) -> dict[str, Any]:
    return content | {"id": f"infinity-{uuid4()}", "created": int(time.time())}


@router.post(
    "/embeddings",
    **documented(
        InfinityEmbeddingsRequest,
        InfinityEmbeddingsResponse,
        examples={"two languages": {"input": ["The bus is late.", "Basi limechelewa."]}},
        dialects=[INFINITY],
    ),
)
async def embeddings(request: Request) -> Response:
    """Embed texts as Infinity does: as at /v1/embeddings, with texts too long cut at their end."""
    terms = admitted(request)
    body = await body_of(request, InfinityEmbeddingsRequest)
    engine = engine_for(request, body.student)
    work = engine.embed(body.input, dimensions=body.dimensions or None, truncate=True, terms=terms)
    embedded = await unless_gone(request, work)
    name = engine.manifest.name
    return answer(
        engine.metrics,
        lambda: _stamped(embedding_list(name, embedded, body.encoding_format)),
        usage_headers(embedded.usage),
    )


async def classify(request: Request, raw: bytes, terms: Terms) -> Response:
    """All labels of each text with their scores, best first."""
    body = parsed(raw, InfinityClassifyRequest)
    engine = engine_for(request, body.student)
    work = engine.classify(
        body.input,
        task=request.query_params.get("task"),
        threshold=0,
        output="logits" if body.raw_scores else "probabilities",
        truncate=True,
        terms=terms,
    )
    classified = await unless_gone(request, work)
    request.state.task = classified.task

    def content() -> dict[str, Any]:
        return _stamped(
            {
                "object": "classify",
                "data": predictions(classified.ranking),
                "model": engine.manifest.name,
                "usage": _tokens(classified.usage),
            }
        )

    return answer(engine.metrics, content, usage_headers(classified.usage))


def _tokens(usage: Usage) -> dict[str, int]:
    return {"prompt_tokens": usage.tokens, "total_tokens": usage.tokens}


_MODELS_ERRORS = documented_errors(WORK, INFINITY)


@router.get("/models", responses={status: _MODELS_ERRORS[status] for status in (401, 503)})
async def list_models(request: Request, service: ServiceDep) -> InfinityModels:
    """The models that are served here, and how many requests each is working on."""
    require_key(request)
    return InfinityModels(data=[_described(served) for served in service.at_work()])


def _described(served: Served) -> InfinityModel:
    can = ["embed", "classify"] if served.engine.tasks else ["embed"]
    return InfinityModel(
        id=served.name,
        stats={"results_pending": served.requests},
        created=created_at(served.engine.manifest),
        capabilities=can,
    )


HANDLERS = {"/embeddings": embeddings}
DIALECTS = dict.fromkeys(("/embeddings", "/models"), INFINITY)
