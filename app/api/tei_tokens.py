"""TEI's tokenizer: `/tokenize` and `/decode`."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    NonNegativeInt,
    RootModel,
    WithJsonSchema,
)

from app.api.openapi import MODEL_IN_QUERY, documented
from app.api.requests import admitted, parsed, raw_body
from app.api.tei import TEI, Answered, Asked, PromptName, answered
from app.engine import Engine

router = APIRouter(tags=["tei"])

TASK = "tokenize"
"""As metrics call it."""


def _texts(inputs: object) -> object:
    return [inputs] if isinstance(inputs, str) else inputs


def _id_lists(ids: object) -> object:
    return [ids] if isinstance(ids, list) and ids and isinstance(ids[0], int) else ids


_TEXT = {"type": "string", "minLength": 1}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}


class TokenizeRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    inputs: Annotated[
        list[str],
        FailFast(),
        BeforeValidator(_texts),
        WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}),
    ]
    """One text, or several. Nothing is cut."""
    add_special_tokens: bool = True
    """Also give the tokens that frame a text."""
    prompt_name: PromptName = None
    """No student has prompts."""


class ShownToken(BaseModel):
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


class DecodeRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    ids: Annotated[
        list[Annotated[list[NonNegativeInt], FailFast()]],
        FailFast(),
        BeforeValidator(_id_lists),
        WithJsonSchema({"anyOf": [_IDS, {"type": "array", "items": _IDS, "minItems": 1}]}),
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
    terms = admitted(request)
    body = parsed(await raw_body(request), TokenizeRequest)
    return await answered(request, body, tokenize, terms=terms)


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
    terms = admitted(request)
    body = parsed(await raw_body(request), DecodeRequest)
    return await answered(request, body, decode, terms=terms)


HANDLERS = {"/tokenize": tokenize_route, "/decode": decode_route}
DIALECTS = {"/tokenize": TEI, "/decode": DECODE}
