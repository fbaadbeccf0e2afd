"""`POST /`, as Hugging Face's client asks a server at a URL: what a body holds says for which task.

`/invocations` is the same path for SageMaker, `/vertex` for several such bodies at once.
"""

import asyncio
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Request, Response
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    FailFast,
    Field,
    PositiveInt,
    RootModel,
    Tag,
    WithJsonSchema,
)

from app.api.bodies import TEXT, Body, Described, several
from app.api.dialects import Dialect, Told
from app.api.native import TextsOrPairs
from app.api.openapi import MODEL_IN_QUERY, TASK_IN_QUERY, documented
from app.api.requests import admitted, checked, loaded, raw_body
from app.api.tei import TEI, Answered, Asked, Operation, answered, respond
from app.api.tei_embed import (
    EMBED_EXAMPLE,
    SIMILARITY,
    SIMILARITY_EXAMPLE,
    SimilarityRequest,
    SimilarityResponse,
    TEIEmbedRequest,
    TEIEmbedResponse,
    embed,
    similarity,
)
from app.api.tei_predict import Prediction, predictions
from app.engine import Engine
from app.errors import InputError
from app.forward import together
from app.postprocess import Output
from app.zero_shot import TEMPLATE

router = APIRouter(tags=["tei"])

_OUTPUTS: dict[str | None, Output] = {
    None: "probabilities",
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    "none": "logits",
}


class ClassifyParameters(Body):
    top_k: PositiveInt | None = None
    """How many labels to give at most, the best first."""
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None
    """In place of the head's own; none gives logits."""


class HubClassifyRequest(Body):
    inputs: TextsOrPairs
    """One text, or several; a pair is a list of two strings inside the list."""
    parameters: ClassifyParameters
    """May be empty, and must be there: it tells this task from embedding."""


class ZeroShotParameters(Body):
    candidate_labels: Annotated[list[str], FailFast()]
    hypothesis_template: str | None = None
    """With {} where a label goes."""
    multi_label: bool | None = None
    """Whether several labels may fit one text."""


OneOrSeveral = Annotated[
    Annotated[str, Tag("(text)")] | Annotated[list[str], Field(fail_fast=True), Tag("(several)")],
    Discriminator(lambda inputs: "(several)" if isinstance(inputs, list) else "(text)"),
    WithJsonSchema({"anyOf": [TEXT, several(TEXT)]}),
]


class HubZeroShotRequest(Body):
    inputs: OneOrSeveral
    """One text, or several."""
    parameters: ZeroShotParameters


class HubClassifyResponse(RootModel[list[Prediction] | list[list[Prediction]]]):
    model_config = ConfigDict(json_schema_extra={"example": [[{"label": "sports", "score": 0.9}]]})


class VertexRequest(Body):
    instances: Annotated[list[dict[str, Any]], FailFast()]
    """Each what POST / takes."""
    parameters: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    """Vertex AI may send it; it must be empty, for each instance has its own."""


class VertexResponse(Described):
    model_config = ConfigDict(json_schema_extra={"example": {"predictions": [[[0.12, -0.55]]]}})

    predictions: list[Any]


async def classify(engine: Engine, body: HubClassifyRequest, asked: Asked) -> Answered:
    """A list of labels per text, also where there is one text: the client takes the first."""
    classified = await engine.classify(
        body.inputs,
        task=asked.task,
        top_k=body.parameters.top_k,
        threshold=0,
        output=_OUTPUTS[body.parameters.function_to_apply],
        truncate=True,
        terms=asked.terms,
    )
    return Answered(lambda: predictions(classified.ranking), classified.task, classified.usage)


async def zero_shot(engine: Engine, body: HubZeroShotRequest, asked: Asked) -> Answered:
    """A list of labels for one text, as the client reads it; a list of such lists for several."""
    parameters, alone = body.parameters, isinstance(body.inputs, str)
    classified = await engine.zero_shot(
        [body.inputs] if isinstance(body.inputs, str) else body.inputs,
        parameters.candidate_labels,
        template=TEMPLATE
        if parameters.hypothesis_template is None
        else parameters.hypothesis_template,
        multi_label=parameters.multi_label or False,
        threshold=0,
        truncate=True,
        terms=asked.terms,
    )

    def content() -> list[Any]:
        found = predictions(classified.ranking)
        return found[0] if alone else found

    return Answered(content, classified.task, classified.usage)


class Kind(NamedTuple):
    """One of the things that a body may ask for."""

    model: type[BaseModel]
    operation: Operation[Any]
    dialect: Dialect = TEI


_EMBED = Kind(TEIEmbedRequest, embed)
_SIMILARITY = Kind(SimilarityRequest, similarity, SIMILARITY)
_CLASSIFY = Kind(HubClassifyRequest, classify)
_ZERO_SHOT = Kind(
    HubZeroShotRequest,
    zero_shot,
    TEI.naming(labels="parameters.candidate_labels", template="parameters.hypothesis_template"),
)


def meant(body: object) -> Kind:
    """Sentences to compare, labels to choose among, `parameters` of a head; or else embedding."""
    if not isinstance(body, dict):
        return _EMBED
    inputs, parameters = body.get("inputs"), body.get("parameters")
    if isinstance(inputs, dict):
        return _SIMILARITY
    if isinstance(parameters, dict) and "candidate_labels" in parameters:
        return _ZERO_SHOT
    return _CLASSIFY if "parameters" in body else _EMBED


async def vertex(engine: Engine, body: VertexRequest, asked: Asked) -> Answered:
    """All instances at once; the first error is that of the whole."""
    limit = engine.settings.max_texts_per_request
    if not 1 <= (count := len(body.instances)) <= limit:
        raise InputError(f"instances has {count} items; send 1 to {limit}", param="instances")
    if count >= engine.settings.bulk_texts and asked.terms.priority is None:
        asked = replace(asked, terms=replace(asked.terms, priority="bulk"))  # each alone is small

    async def one(index: int, sent: dict[str, Any]) -> Answered:
        kind = meant(sent)
        try:
            return await kind.operation(engine, checked(sent, kind.model), asked)
        except InputError as error:
            place = f"instances[{index}]"
            said = kind.dialect.worded(
                Told(422, error.code, str(error), error.param, error.as_sent)
            )
            raise InputError(f"{place}: {said.message}", param=place) from None

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*each)) for each in enumerate(body.instances)]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    found = [task.result() for task in tasks]
    return Answered(
        lambda: {"predictions": [each.content() for each in found]},
        found[0].task,
        together([each.usage for each in found if each.usage]),
    )


_ROOT = documented(
    [TEIEmbedRequest, SimilarityRequest, HubClassifyRequest, HubZeroShotRequest],
    TEIEmbedResponse | SimilarityResponse | HubClassifyResponse,
    examples={
        "embed": EMBED_EXAMPLE,
        "compare": SIMILARITY_EXAMPLE,
        "classify": {"inputs": "Timu yetu ilishinda mechi jana.", "parameters": {"top_k": 3}},
        "classify by labels of your own": {
            "inputs": "Mvua kubwa inatarajiwa kesho.",
            "parameters": {"candidate_labels": ["weather", "money"]},
        },
    },
    dialects=[TEI],
    parameters=[TASK_IN_QUERY, MODEL_IN_QUERY],
)


@router.post("/", **_ROOT)
@router.post("/invocations", **_ROOT)
async def root(request: Request) -> Response:
    """Embed, compare or classify, as Hugging Face's client asks a server at a URL.

    `inputs` with sentences compares them. `parameters` with `candidate_labels` chooses among
    these; any other `parameters`, empty ones too, ask a head of the model. Else texts are embedded.
    """
    terms = admitted(request)
    sent = loaded(await raw_body(request))
    kind = meant(sent)
    request.state.dialect = kind.dialect
    return await answered(request, checked(sent, kind.model), kind.operation, terms=terms)


@router.post(
    "/vertex",
    **documented(
        VertexRequest,
        VertexResponse,
        examples={"embed and classify": {"instances": [{"inputs": "Basi limechelewa."}]}},
        dialects=[TEI],
        parameters=[TASK_IN_QUERY, MODEL_IN_QUERY],
    ),
)
async def vertex_route(request: Request) -> Response:
    """Several bodies of POST / at once, as Vertex AI sends them."""
    return await respond(request, VertexRequest, vertex)


HANDLERS = {"/": root, "/invocations": root, "/vertex": vertex_route}
DIALECTS = dict.fromkeys(HANDLERS, TEI)
