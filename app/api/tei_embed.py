"""TEI's embeddings: `/embed` (a path it shares with the native contract) and `/similarity`."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    FailFast,
    Field,
    NonNegativeInt,
    PositiveInt,
    RootModel,
    Tag,
    WithJsonSchema,
)

from app.api.bodies import IDS, TEXT, Body, several
from app.api.openapi import MODEL_IN_QUERY, documented
from app.api.tei import TEI, Answered, Asked, Options, respond
from app.engine import Engine
from app.errors import InputError, NoTextsError, TooManyTextsError
from app.metrics import EMBED_TASK
from app.postprocess import similarities
from app.results import Embedded

router = APIRouter(tags=["tei"])


def _as_list(inputs: object) -> object:
    """One text, or the token ids of one, as a list of one."""
    alone = isinstance(inputs, str) or (
        isinstance(inputs, list) and inputs and isinstance(inputs[0], int)
    )
    return [inputs] if alone else inputs


# Fail fast: millions of errors in one body would cost gigabytes, and only the first is told.
TextOrIds = Annotated[
    Annotated[str, Tag("(text)")]
    | Annotated[list[NonNegativeInt], Field(fail_fast=True), Tag("(ids)")],
    Discriminator(lambda text: "(ids)" if isinstance(text, list) else "(text)"),
]
Inputs = Annotated[
    list[TextOrIds],
    FailFast(),
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [TEXT, IDS, several(TEXT, IDS)]}),
]


class TEIEmbedRequest(Options):
    inputs: Inputs
    """One text, or several; each may be given as token ids of this model, see /tokenize."""
    normalize: bool = True
    """Scale vectors to length 1."""
    dimensions: PositiveInt | None = None
    """Keep only the first dimensions; vectors are scaled to length 1 after the cut."""
    encoding_format: Literal["float"] | None = None
    """Hugging Face's client may say it; there is nothing else here."""


class TEIEmbedResponse(RootModel[list[list[float]]]):
    model_config = ConfigDict(json_schema_extra={"example": [[0.12, -0.55, 0.31, 0.77]]})


EMBED_EXAMPLE: dict[str, Any] = {
    "inputs": ["The bus is late.", "Basi limechelewa."],
    "truncate": True,
}


async def embed(engine: Engine, body: TEIEmbedRequest, asked: Asked) -> Answered:
    """One vector per input, always in a list."""
    embedded = await engine.embed(
        await _texts(engine, body.inputs, asked),
        dimensions=body.dimensions,
        normalize=body.normalize,
        terms=asked.terms,
        **body.reading(),
    )
    return Answered(lambda: embedded.vectors, EMBED_TASK, embedded.usage)


async def _texts(engine: Engine, inputs: list[str | list[int]], asked: Asked) -> list[str]:
    """Token ids are decoded, and what frames a text is left out: it is put there again."""
    places = [index for index, each in enumerate(inputs) if not isinstance(each, str)]
    texts = [each if isinstance(each, str) else "" for each in inputs]
    if not places:
        return texts
    ids = [each for each in inputs if not isinstance(each, str)]
    decoded = await engine.pieces.texts(ids, special=False, terms=asked.terms)
    for place, text in zip(places, decoded, strict=True):
        texts[place] = text
    return texts


class Compared(Body):
    source_sentence: str
    """What all others are compared with."""
    sentences: Annotated[list[str], FailFast()]


class SimilarityRequest(Body):
    inputs: Compared
    parameters: Options | None = None


class SimilarityResponse(RootModel[list[float]]):
    model_config = ConfigDict(json_schema_extra={"example": [0.91, 0.07]})


SIMILARITY_EXAMPLE: dict[str, Any] = {
    "inputs": {
        "source_sentence": "The bus is late.",
        "sentences": ["Basi limechelewa.", "Prices rise."],
    }
}
SIMILARITY = TEI.naming(texts="inputs.sentences")


async def similarity(engine: Engine, body: SimilarityRequest, asked: Asked) -> Answered:
    """The cosine of each sentence with the source sentence."""
    sentences = body.inputs.sentences
    limit = engine.settings.max_texts_per_request - 1  # the source sentence is a text too
    if not sentences:
        raise NoTextsError(limit=limit)
    if len(sentences) > limit:
        raise TooManyTextsError(texts=len(sentences), limit=limit)
    embedded = await _compared(engine, body, asked)
    return Answered(lambda: similarities(embedded.vectors), EMBED_TASK, embedded.usage)


async def _compared(engine: Engine, body: SimilarityRequest, asked: Asked) -> Embedded:
    """All sentences, and the source sentence last."""
    texts = [*body.inputs.sentences, body.inputs.source_sentence]
    options = body.parameters or Options()
    try:
        return await engine.embed(texts, terms=asked.terms, **options.reading())
    except InputError as error:
        if error.param != (source := f"texts[{len(texts) - 1}]"):
            raise
        place = "inputs.source_sentence"
        raise InputError(str(error).replace(source, place, 1), param=place) from None


@router.post(
    "/similarity",
    **documented(
        SimilarityRequest,
        SimilarityResponse,
        examples={"two languages": SIMILARITY_EXAMPLE},
        dialects=[SIMILARITY],
        parameters=[MODEL_IN_QUERY],
    ),
)
async def similarity_route(request: Request) -> Response:
    """Compare sentences with one, across languages: the cosine of each."""
    return await respond(request, SimilarityRequest, similarity)


HANDLERS = {"/similarity": similarity_route}
DIALECTS = {"/similarity": SIMILARITY}
