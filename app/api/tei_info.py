"""What clients of other servers ask about the service: TEI's fields in `/info`, `/health`, `/ping`."""

import time
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from app.api.dialects import Told
from app.api.errors import error_response
from app.api.openapi import documented_error
from app.api.requests import ServiceDep
from app.api.tei import TEI
from app.engine import Engine
from app.errors import NotReadyError
from app.metrics import PRIORITIES
from app.versions import own_version

router = APIRouter(tags=["health"])

_DTYPES = {"fp32": "float32", "fp16": "float16"}


class TEIFacts(BaseModel):
    """The default model and the limits, in the words of Text Embeddings Inference."""

    model_id: str
    model_sha: str
    """The revision."""
    model_dtype: str
    served_model_name: str
    model_type: dict[str, dict[str, str]]
    max_concurrent_requests: int
    """Texts of full length that may wait at a time; shorter ones are more."""
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: None = None
    max_client_batch_size: int
    auto_truncate: bool = True
    tokenization_workers: int
    version: str
    sha: None = None
    docker_label: None = None


class Health(BaseModel):
    unix: float
    """Seconds."""


def facts(engine: Engine) -> dict[str, Any]:
    """The fields of `TEIFacts`. Every student embeds; that it classifies too has no word there."""
    manifest, settings = engine.manifest, engine.settings
    precision = engine.session.variant.precision
    return {
        "model_id": manifest.name,
        "model_sha": manifest.revision,
        "model_dtype": _DTYPES.get(precision, precision),
        "served_model_name": manifest.name,
        "model_type": {"embedding": {"pooling": "mean"}},
        "max_concurrent_requests": settings.max_queue_tokens // manifest.max_tokens,
        "max_input_length": manifest.max_tokens,
        "max_batch_tokens": settings.max_batch_tokens,
        "max_client_batch_size": settings.max_texts_per_request,
        "tokenization_workers": len(PRIORITIES),
        "version": own_version(),
    }


_UNWELL: dict[int | str, dict[str, Any]] = {503: documented_error(503, TEI)}


@router.head("/health", response_model=None, include_in_schema=False)
@router.head("/ping", response_model=None, include_in_schema=False)
@router.get("/health", response_model=Health, responses=_UNWELL)
@router.get("/ping", response_model=Health, responses=_UNWELL)
async def health(service: ServiceDep) -> Response | Health:
    """As /readyz, for clients of other servers, which look at the status or read the time."""
    if service.ready:
        return Health(unix=time.time())
    return error_response(Told(503, NotReadyError.code, service.state), TEI)
