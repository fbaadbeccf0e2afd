"""TEI's classification: `/predict`."""

from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, PlainValidator, RootModel, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.api.bodies import TEXT, Described, several
from app.api.openapi import MODEL_IN_QUERY, TASK_IN_QUERY, documented
from app.api.tei import TEI, Answered, Asked, Options, respond
from app.engine import Engine
from app.postprocess import Ranking
from app.runtime.tokenizer import Text

router = APIRouter(tags=["tei"])


class Sequences(NamedTuple):
    texts: list[Text]
    alone: bool
    """Whether one was sent, not in a list of several; the answer is as flat."""


def _sequences(inputs: object) -> Sequences:
    """`"a"` and `["a"]` are a text, `["a", "b"]` is a pair, and `[["a"], ["b", "c"]]` are both."""
    if isinstance(inputs, str):
        return Sequences([inputs], alone=True)
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], str):
        return Sequences([_sequence(inputs, "this")], alone=True)
    if not isinstance(inputs, list):
        raise PydanticCustomError("sequences", "send a text, a pair, or a list of lists of them")
    return Sequences([_sequence(e, f"item {i}") for i, e in enumerate(inputs)], alone=False)


def _sequence(parts: object, place: str) -> Text:
    if not (isinstance(parts, list) and all(isinstance(part, str) for part in parts)):
        found = "holds something else than strings" if isinstance(parts, list) else "is not a list"
        raise PydanticCustomError(
            "sequence",
            "{place} {found}; send [text] or [text, second text]",
            {"place": place, "found": found},
        )
    if len(parts) not in (1, 2):
        raise PydanticCustomError(
            "sequence",
            "{place} has {count} strings; a text is one and a pair two. Several texts: "
            "[[text], [text], ...]",
            {"place": place, "count": len(parts)},
        )
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


_PARTS = {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 2}
_SCHEMA = {"anyOf": [TEXT, _PARTS, several(_PARTS)]}


class PredictRequest(Options):
    inputs: Annotated[Sequences, PlainValidator(_sequences), WithJsonSchema(_SCHEMA)]
    """A text; a pair of texts as a list of two; or a list of lists of one text or two."""
    raw_scores: bool = False
    """Give logits instead of probabilities."""


class Prediction(Described):
    score: float
    label: str


class PredictResponse(RootModel[list[Prediction] | list[list[Prediction]]]):
    model_config = ConfigDict(json_schema_extra={"example": [{"score": 0.93, "label": "sports"}]})


EXAMPLES: dict[str, Any] = {
    "one text": {"inputs": "Timu yetu ilishinda mechi jana."},
    "several": {"inputs": [["Das Konzert war ausverkauft."], ["新药获批上市。"]]},
}


async def predict(engine: Engine, body: PredictRequest, asked: Asked) -> Answered:
    """All labels of each text with their scores, best first."""
    classified = await engine.classify(
        body.inputs.texts,
        task=asked.task,
        threshold=0,
        output="logits" if body.raw_scores else "probabilities",
        terms=asked.terms,
        **body.reading(),
    )
    alone = body.inputs.alone

    def content() -> list[Any]:
        found = predictions(classified.ranking)
        return found[0] if alone else found

    return Answered(content, classified.task, classified.usage)


def predictions(ranking: Ranking) -> list[list[dict[str, Any]]]:
    """Per text its labels and scores, best first."""
    return [[{"score": score, "label": label} for label, score in given] for given in ranking]


@router.post(
    "/predict",
    **documented(
        PredictRequest,
        PredictResponse,
        examples=EXAMPLES,
        dialects=[TEI],
        parameters=[TASK_IN_QUERY, MODEL_IN_QUERY],
    ),
)
async def predict_route(request: Request) -> Response:
    """Classify texts, or pairs of texts, by one of the model's heads."""
    return await respond(request, PredictRequest, predict)


HANDLERS = {"/predict": predict_route}
DIALECTS = {"/predict": TEI}
