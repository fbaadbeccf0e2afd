"""POST /heads/reload: look at the folder of fitted heads at once, and say what came of it."""

import asyncio

from fastapi import APIRouter, Request
from pydantic import BaseModel

from app.api.keys import require_admin
from app.api.openapi import documented_error
from app.api.requests import ServiceDep

router = APIRouter(tags=["heads"])


class ModelHeads(BaseModel):
    """The fitted heads of one model."""

    loaded: list[str]
    """In use."""
    refused: dict[str, str]
    """Not usable, and why. A head that was in use before under the same name still is."""


class ReloadResponse(BaseModel):
    models: dict[str, ModelHeads]


@router.post(
    "/heads/reload", responses={status: documented_error(status) for status in (401, 403, 503)}
)
async def reload_heads(request: Request, service: ServiceDep) -> ReloadResponse:
    """Read all fitted heads again, in this process; others of the service do within a second."""
    require_admin(request)
    students = service.at_work()
    engines = {served.name: served.engine for served in students}  # they may be exchanged meanwhile
    for engine in engines.values():
        await asyncio.to_thread(engine.heads.refresh, all_again=True)
    found = {
        name: ModelHeads(loaded=list(engine.heads.fitted), refused=students.refused_heads(engine))
        for name, engine in engines.items()
    }
    return ReloadResponse(models=found)
