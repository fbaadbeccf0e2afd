"""The native contract at POST /embed and POST /classify: bodies, and what answers them."""

from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    FailFast,
    Field,
    PositiveInt,
    Tag,
    WithJsonSchema,
)
from typing_extensions import TypeAliasType

from app.admission import Terms
from app.api.answers import Encoding, answer, classify_json, embed_json
from app.api.bodies import TEXT, Body, Described, as_list, several
from app.api.requests import engine_for, parsed, unless_gone
from app.engine import Engine
from app.errors import InputError
from app.postprocess import DType, Output
from app.results import Classified
from app.zero_shot import MAX_LABELS, MAX_NAME_CHARACTERS, MAX_TEMPLATE_CHARACTERS, TEMPLATE


def _one_or_many(*kinds: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema(
        {"anyOf": [TEXT, several(*kinds)], "description": "One text, or several."}
    )


_PAIR = {"type": "array", "items": TEXT, "minItems": 2, "maxItems": 2}

# Fail fast: millions of errors in one body would cost gigabytes, and only the first is told.
Texts = Annotated[list[str], FailFast(), BeforeValidator(as_list), _one_or_many(TEXT)]
TextOrPair = Annotated[
    Annotated[str, Tag("(text)")] | Annotated[tuple[str, str], Field(strict=False), Tag("(pair)")],
    Discriminator(lambda text: "(pair)" if isinstance(text, list) else "(text)"),
]
TextsOrPairs = Annotated[
    list[TextOrPair], FailFast(), BeforeValidator(as_list), _one_or_many(TEXT, _PAIR)
]
_NAME = {**TEXT, "maxLength": MAX_NAME_CHARACTERS}
_NAMES = {"type": "array", "items": _NAME, "minItems": 1, "maxItems": MAX_LABELS}
_DESCRIBED = {
    "type": "object",
    "propertyNames": {"maxLength": MAX_NAME_CHARACTERS},
    "additionalProperties": TEXT,
    "minProperties": 1,
    "maxProperties": MAX_LABELS,
}
# Named, because FailFast cannot be hashed, as a member of a union is.
Names = TypeAliasType("Names", Annotated[list[str], FailFast()])
Labels = Annotated[
    Annotated[Names, Tag("(names)")] | Annotated[dict[str, str], Tag("(described)")],
    Discriminator(lambda labels: "(described)" if isinstance(labels, dict) else "(names)"),
    WithJsonSchema({"anyOf": [_NAMES, _DESCRIBED]}),
]


class _NativeRequest(Body):
    model: str | None = None
    """The name of a model that is served here (GET /info); the first of them if left out."""
    truncate: bool = False
    """Read only the beginning of a text above the token limit, and report it, instead of
    refusing the request."""


class EmbedRequest(_NativeRequest):
    texts: Texts
    dimensions: PositiveInt | None = None
    """Keep only the first dimensions; vectors are scaled to length 1 after the cut."""
    normalize: bool = True
    """Scale vectors to length 1."""
    dtype: DType = "float32"
    """int8: each vector scaled so that its largest component is 127, compare by cosine.
    binary: one bit per dimension, 1 where positive, the first dimension in the highest bit."""
    encoding: Encoding = "json"
    """base64: the little-endian bytes of each vector."""


class ClassifyRequest(_NativeRequest):
    texts: TextsOrPairs
    """A list of two strings is two texts; a pair is a list of two strings inside the list."""
    task: str | None = None
    """The head to ask; may be left out where the model has one, or `LIGHTMBERT_DEFAULT_TASK` is
    set."""
    labels: Labels | None = None
    """In place of a head: labels of your own, found by similarity. Names, or names with a
    description each."""
    template: Annotated[
        str | None, Field(json_schema_extra={"maxLength": MAX_TEMPLATE_CHARACTERS})
    ] = None
    """What is said of a text to which a label fits, with {} where the label's description, or
    else its name, goes."""
    multi_label: bool | None = None
    """Whether several of `labels` may fit one text, each with a probability of its own."""
    top_k: PositiveInt | None = None
    """How many labels to give at most, the best first."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Give only labels whose probability reaches this; the task may have one of its own."""
    output: Output = "probabilities"
    """logits: scores as they leave the model, before temperature and softmax or sigmoid.
    softmax, sigmoid: that function in place of the task's own."""


_USAGE = {"texts": 1, "tokens": 9, "truncated": []}
EMBED_ANSWER: dict[str, Any] = {
    "model": "lightmbert-mini",
    "dimensions": 4,
    "embeddings": [[0.12, -0.55, 0.31, 0.77]],
    "usage": _USAGE,
}
_SPORTS = {"label": "sports", "score": 0.93}
CLASSIFY_ANSWER: dict[str, Any] = {
    "model": "lightmbert-mini",
    "task": "topic",
    "results": [_SPORTS | {"scores": [_SPORTS]}],
    "usage": _USAGE,
}


class UsageBody(Described):
    texts: int
    tokens: int
    truncated: list[int]


class EmbedResponse(Described):
    model_config = ConfigDict(json_schema_extra={"example": EMBED_ANSWER})

    model: str
    dimensions: int
    embeddings: list[list[float]] | list[str]
    usage: UsageBody


class LabelScore(Described):
    label: str
    score: float


class Classification(Described):
    label: str | None
    """The best label; null where none reaches the threshold."""
    score: float
    """The best score, whether it reaches the threshold or not."""
    scores: list[LabelScore]


class ClassifyResponse(Described):
    model_config = ConfigDict(json_schema_extra={"example": CLASSIFY_ANSWER})

    model: str
    task: str
    results: list[Classification]
    usage: UsageBody


EMBED_EXAMPLES: dict[str, dict[str, Any]] = {
    "two languages": {"texts": ["The bus is late.", "Basi limechelewa."]},
    "smaller": {"texts": "नमस्ते दुनिया", "dimensions": 64, "dtype": "int8", "encoding": "base64"},
}
CLASSIFY_EXAMPLES: dict[str, dict[str, Any]] = {
    "one text": {"texts": "Timu yetu ilishinda mechi jana.", "task": "topic", "top_k": 3},
    "labels of your own": {
        "texts": "Mvua kubwa inatarajiwa kesho.",
        "labels": {"weather": "rain, wind, heat or cold", "money": "prices, banks or wages"},
    },
    "several": {"texts": ["Das Konzert war ausverkauft.", "新药获批上市。"], "task": "topic"},
}


async def embed(request: Request, raw: bytes, terms: Terms) -> Response:
    body = parsed(raw, EmbedRequest)
    engine = engine_for(request, body.model)
    work = engine.embed(
        body.texts,
        dimensions=body.dimensions,
        normalize=body.normalize,
        truncate=body.truncate,
        terms=terms,
    )
    embedded = await unless_gone(request, work)
    return answer(
        engine.metrics,
        lambda: embed_json(
            engine.manifest.name, embedded, dtype=body.dtype, encoding=body.encoding
        ),
    )


async def classify(request: Request, raw: bytes, terms: Terms) -> Response:
    body = parsed(raw, ClassifyRequest)
    engine = engine_for(request, body.model)
    classified = await unless_gone(request, _classified(engine, body, terms))
    request.state.task = classified.task
    return answer(engine.metrics, lambda: classify_json(engine.manifest.name, classified))


def _classified(
    engine: Engine, body: ClassifyRequest, terms: Terms
) -> Coroutine[Any, Any, Classified]:
    shown: dict[str, Any] = {
        "top_k": body.top_k,
        "threshold": body.threshold,
        "output": body.output,
        "truncate": body.truncate,
        "terms": terms,
    }
    if body.labels is None:
        for name in ("template", "multi_label"):
            if getattr(body, name) is not None:
                raise InputError(f"{name} says how labels are read; send labels", param=name)
        return engine.classify(body.texts, task=body.task, **shown)
    if body.task is not None:
        raise InputError("task and labels exclude each other; send one of them", param="labels")
    return engine.zero_shot(
        body.texts,
        body.labels,
        template=TEMPLATE if body.template is None else body.template,
        multi_label=body.multi_label or False,
        **shown,
    )
