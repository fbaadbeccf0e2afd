"""The two paths that several contracts have: what a body holds says which of them it speaks.

`texts` is ours, `inputs` is TEI's and `input` is Infinity's. Until the body is read, errors are
told as ours.
"""

import orjson
from fastapi import APIRouter, Request, Response

from app.api import infinity, native
from app.api.dialects import NATIVE, Dialect
from app.api.openapi import MODEL_IN_QUERY, TASK_IN_QUERY, documented
from app.api.requests import admitted, parsed, raw_body
from app.api.tei import TEI, answered
from app.api.tei_embed import EMBED_EXAMPLE, TEIEmbedRequest, TEIEmbedResponse
from app.api.tei_embed import embed as tei_embed
from app.errors import InputError

router = APIRouter(tags=["native"])


@router.post(
    "/embed",
    **documented(
        [native.EmbedRequest, TEIEmbedRequest],
        native.EmbedResponse | TEIEmbedResponse,
        examples={**native.EMBED_EXAMPLES, "as TEI has it": EMBED_EXAMPLE},
        dialects=[NATIVE, TEI],
        parameters=[MODEL_IN_QUERY],
    ),
)
async def embed(request: Request) -> Response:
    """Embed texts: vectors whose cosine says how close two texts are, across languages.

    A body that holds `inputs` is answered as Text Embeddings Inference does.
    """
    terms = admitted(request)
    raw = await raw_body(request)
    if b'"inputs"' in raw and _speaks(raw, "inputs"):
        request.state.dialect = TEI
        return await answered(request, parsed(raw, TEIEmbedRequest), tei_embed, terms=terms)
    return await native.embed(request, raw, terms)


@router.post(
    "/classify",
    **documented(
        [native.ClassifyRequest, infinity.InfinityClassifyRequest],
        native.ClassifyResponse | infinity.InfinityClassifyResponse,
        examples={
            **native.CLASSIFY_EXAMPLES,
            "as Infinity has it": {"input": ["Das Konzert war ausverkauft."]},
        },
        dialects=[NATIVE, infinity.INFINITY],
        parameters=[TASK_IN_QUERY],
    ),
)
async def classify(request: Request) -> Response:
    """Classify texts, or pairs of texts, by one of the model's heads or by labels of yours.

    A body that holds `input` is answered as Infinity does.
    """
    terms = admitted(request)
    raw = await raw_body(request)
    if b'"input"' in raw and _speaks(raw, "input"):
        request.state.dialect = infinity.INFINITY
        return await infinity.classify(request, raw, terms)
    return await native.classify(request, raw, terms)


def _speaks(raw: bytes, key: str) -> bool:
    """Whether the body holds `key` where ours hold `texts`, when the word stands in it somewhere.

    Raises:
        InputError: it holds both.
    """
    if b'"texts"' not in raw:
        return True
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(body, dict) or key not in body:
        return False
    if "texts" in body:
        raise InputError(f"texts and {key} exclude each other; send one of them", param=key)
    return True


HANDLERS = {"/embed": embed, "/classify": classify}
DIALECTS: dict[str, Dialect] = {}
