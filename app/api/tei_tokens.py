"""TEI's tokenizer: `/tokenize` and `/decode`."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import (
    BeforeValidator,
    ConfigDict,
    FailFast,
    NonNegativeInt,
    RootModel,
    WithJsonSchema,
)

from app.api.bodies import IDS, TEXT, Body, Described, as_list, several
from app.api.openapi import MODEL_IN_QUERY, documented
from app.api.tei import TEI, Answered, Asked, PromptName, respond
from app.engine import Engine

router = APIRouter(tags=["tei"])

TASK = "tokenize"
"""As metrics call it."""


def _id_lists(ids: object) -> object:
    return [ids] if isinstance(ids, list) and ids and isinstance(ids[0], int) else ids


class TokenizeRequest(Body):
    inputs: Annotated[
        list[str],
        FailFast(),
        BeforeValidator(as_list),
        WithJsonSchema({"anyOf": [TEXT, several(TEXT)]}),
    ]
    """One text, or several. Nothing is cut."""
    add_special_tokens: bool = True
    """Also give the tokens that frame a text."""
    prompt_name: PromptName = None
    """No student has prompts."""


class ShownToken(Described):
    id: int
    text: str
    special: bool
    start: int | None
    """In bytes of the text as UTF-8; null for special tokens."""
    stop: int | None


class TokenizeResponse(RootModel[list[list[ShownToken]]]):
    model_config = ConfigDict(
        json_schema_extra={
            "example": [[{"id": 81, "text": "bus", "special": False, "start": 0, "stop": 3}]]
        }
    )


class DecodeRequest(Body):
    ids: Annotated[
        list[Annotated[list[NonNegativeInt], FailFast()]],
        FailFast(),
        BeforeValidator(_id_lists),
        WithJsonSchema({"anyOf": [IDS, several(IDS)]}),
    ]
    """The token ids of one text, or of several."""
    skip_special_tokens: bool = True
    """Leave out the names of tokens that frame a text."""


class DecodeResponse(RootModel[list[str]]):
    model_config = ConfigDict(json_schema_extra={"example": ["the bus is late."]})


async def tokenize(engine: Engine, body: TokenizeRequest, asked: Asked) -> Answered:
    tokens = await engine.pieces.tokens(
        body.inputs, special=body.add_special_tokens, terms=asked.terms
    )
    return Answered(lambda: tokens, TASK)


async def decode(engine: Engine, body: DecodeRequest, asked: Asked) -> Answered:
    texts = await engine.pieces.texts(
        body.ids, special=not body.skip_special_tokens, terms=asked.terms
    )
    return Answered(lambda: texts, TASK)


_TOKENIZE_EXAMPLES: dict[str, Any] = {"one text": {"inputs": "The bus is late."}}
_DECODE_EXAMPLES: dict[str, Any] = {"one text": {"ids": [2, 81, 3]}}
DECODE = TEI.naming(texts="ids")


@router.post(
    "/tokenize",
    **documented(
        TokenizeRequest,
        TokenizeResponse,
        examples=_TOKENIZE_EXAMPLES,
        dialects=[TEI],
        parameters=[MODEL_IN_QUERY],
    ),
)
async def tokenize_route(request: Request) -> Response:
    """The tokens of texts, and where each stands: see what a text costs, or where it is cut."""
    return await respond(request, TokenizeRequest, tokenize)


@router.post(
    "/decode",
    **documented(
        DecodeRequest,
        DecodeResponse,
        examples=_DECODE_EXAMPLES,
        dialects=[DECODE],
        parameters=[MODEL_IN_QUERY],
    ),
)
async def decode_route(request: Request) -> Response:
    """The text of token ids, as far as the tokenizer keeps it."""
    return await respond(request, DecodeRequest, decode)


HANDLERS = {"/tokenize": tokenize_route, "/decode": decode_route}
DIALECTS = {"/tokenize": TEI, "/decode": DECODE}
