"""What is served is looked at and changed here, by who carries the admin key."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from app.api.bodies import Body
from app.api.keys import require_admin
from app.api.openapi import documented_error
from app.api.requests import body_of
from app.service import Service
from app.students import Served

router = APIRouter(prefix="/admin/models", tags=["admin"])


class LoadRequest(Body):
    folder: Annotated[str, Field(min_length=1, max_length=1_024)]
    """A model folder, by its path from `LIGHTMBERT_MODELS_ROOT`."""


class AdminModel(BaseModel):
    """One student."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    revision: str
    ready: bool
    """False while it is sick, or because it is beyond repair."""
    requests: int
    """Those that hold it now."""

    @classmethod
    def of(cls, served: Served) -> "AdminModel":
        return cls(
            name=served.name,
            revision=served.revision,
            ready=served.ready,
            requests=served.requests,
        )


class AdminModels(BaseModel):
    """All students."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    models: list[AdminModel]
    """Those that are served, the default first."""
    leaving: list[AdminModel]
    """Those that were unloaded or replaced, and end with the requests that hold them."""


class Loaded(BaseModel):
    """What a load has come to."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    loaded: AdminModel
    replaced: AdminModel | None
    """What was served under that name before, and is leaving."""
    seconds: float


class Unloaded(BaseModel):
    """What is leaving."""

    unloaded: AdminModel


def _documented(*statuses: int, body: type[BaseModel] | None = None) -> dict[str, Any]:
    """Arguments for a route's decorator."""
    extra: dict[str, Any] = {}
    if body is not None:
        content = {"application/json": {"schema": body.model_json_schema()}}
        extra = {"requestBody": {"required": True, "content": content}}
    responses = {status: documented_error(status) for status in (401, 403, *statuses)}
    return {"responses": responses, "openapi_extra": extra}


@router.get("", **_documented(503))
async def show(request: Request) -> AdminModels:
    """What is served, and what is about to end."""
    require_admin(request)
    students = _service(request).at_work()
    return AdminModels(
        models=[AdminModel.of(each) for each in students],
        leaving=[AdminModel.of(each) for each in students.retiring],
    )


@router.post("", **_documented(400, 409, 413, 415, 422, 503, body=LoadRequest))
async def load(request: Request) -> Loaded:
    """Load a model folder beside the others, or in place of the model that has its name.

    It answers when the model is in service. Requests that began before end on the model they
    began on. If the folder cannot be used, nothing has changed.
    """
    require_admin(request)
    body = await body_of(request, LoadRequest)
    service = _service(request)
    service.at_work()
    change = await service.exchange.load(body.folder)
    return Loaded(
        loaded=AdminModel.of(change.served),
        replaced=AdminModel.of(change.replaced) if change.replaced else None,
        seconds=change.seconds,
    )


@router.delete("/{name}", **_documented(409, 422, 503))
async def unload(request: Request, name: str) -> Unloaded:
    """Take a model out of service. It ends with the last request that holds it."""
    require_admin(request)
    service = _service(request)
    service.at_work()
    return Unloaded(unloaded=AdminModel.of(service.exchange.unload(name)))


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
