"""Answers as bytes, written once from numpy: no object per number, and no second validation."""

import base64
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Literal

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray

from app.forward import Usage
from app.metrics import Metrics
from app.postprocess import DType, shrink
from app.results import Classified, Embedded

Encoding = Literal["json", "base64"]
EncodingFormat = Literal["float", "base64"]
"""The same choice in OpenAI's words."""


def answer(
    metrics: Metrics, content: Callable[[], Any], headers: Mapping[str, str] | None = None
) -> Response:
    """A 200 with `content` as JSON. Building and writing it are timed together."""
    started_at = perf_counter()
    body = orjson.dumps(content(), option=orjson.OPT_SERIALIZE_NUMPY)
    metrics.stage_seconds["serialize"].observe(perf_counter() - started_at)
    return Response(body, headers=headers, media_type="application/json")


def usage_headers(usage: Usage) -> dict[str, str]:
    """What a request cost, and how many of its texts were cut, for bodies that have no room."""
    return {
        "x-compute-tokens": str(usage.tokens),
        "x-lightmbert-truncated-texts": str(len(usage.truncated)),
    }


def embed_json(
    model: str, embedded: Embedded, *, dtype: DType, encoding: Encoding
) -> dict[str, Any]:
    vectors = shrink(embedded.vectors, dtype)
    return {
        "model": model,
        "dimensions": embedded.vectors.shape[1],
        "embeddings": _base64(vectors) if encoding == "base64" else vectors,
        "usage": _usage(embedded.usage),
    }


def classify_json(model: str, classified: Classified) -> dict[str, Any]:
    return {
        "model": model,
        "task": classified.task,
        "results": classified.ranking.records(),
        "usage": _usage(classified.usage),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {"texts": usage.texts, "tokens": usage.tokens, "truncated": usage.truncated}


def embedding_list(
    model: str, embedded: Embedded, encoding_format: EncodingFormat
) -> dict[str, Any]:
    """An answer in the shape of OpenAI's `/v1/embeddings`, which others use as well."""
    vectors = _base64(embedded.vectors) if encoding_format == "base64" else embedded.vectors
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {
            "prompt_tokens": embedded.usage.tokens,
            "total_tokens": embedded.usage.tokens,
        },
    }


def _base64(vectors: NDArray[np.generic]) -> list[str]:
    """Each row's bytes, little-endian whatever this machine is."""
    rows = vectors.astype(vectors.dtype.newbyteorder("<"), copy=False)
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]
