"""Probes and facts: is it alive, is it ready, how does it do, what does it serve."""

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict

from app.api.dialects import Told
from app.api.errors import error_response
from app.api.openapi import documented_error
from app.api.requests import ServiceDep
from app.api.tei_info import TEIFacts, facts
from app.engine import Engine
from app.errors import NotReadyError
from app.head_file import HeadFile
from app.runtime.cpus import cpu_name
from app.students import Served, Students
from app.versions import versions

router = APIRouter(tags=["health"])


class State(BaseModel):
    state: str


class _Shown(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class TaskInfo(_Shown):
    labels: list[str]
    problem_type: str
    pair: bool
    threshold: float | None


class ModelInfo(_Shown):
    name: str
    revision: str
    license: str
    languages: list[str]
    embedding_dimension: int
    tasks: dict[str, TaskInfo]


class FittedHeadInfo(TaskInfo):
    """A head that was fitted on a model's embeddings, and is in use."""

    revision: str
    """Of the model."""
    rows: int
    """That it was fitted on."""
    expected_accuracy: float
    """By cross-validation on them."""
    created: str


class RuntimeInfo(BaseModel):
    """How one model is run."""

    precision: str
    target: str
    file: str
    provider: str
    cpu: str
    runners: int
    intra_op_threads: int


class Limits(_Shown):
    """Every limit that can refuse or cut a request."""

    max_tokens: int
    """Per text, special tokens included."""
    max_texts_per_request: int
    max_body_bytes: int
    max_batch_tokens: int
    max_queue_tokens: int
    max_queue_bytes: int
    max_wait_s: float
    bulk_max_wait_s: float
    max_timeout_s: float
    run_timeout_s: float
    drain_timeout_s: float


class ServedModel(ModelInfo):
    max_tokens: int
    """Per text, special tokens included."""
    ready: bool
    """False while it keeps failing; requests that name it are answered with 503."""
    runtime: RuntimeInfo
    fitted_heads: dict[str, FittedHeadInfo]
    """Tasks beside `tasks`, from the folder of heads."""
    refused_heads: dict[str, str]
    """What lies in that folder and cannot be used, and why; a head that was in use before under
    the same name still is."""


class Info(TEIFacts):
    """Ours, with TEI's beside it at the top."""

    model: ModelInfo
    """The default: that of requests which name none."""
    models: list[ServedModel]
    """All, the default first."""
    runtime: RuntimeInfo
    limits: Limits
    versions: dict[str, str]


_NOT_READY: dict[int | str, dict[str, Any]] = {503: documented_error(503)}


@router.head("/livez", response_model=None, include_in_schema=False)
@router.get("/livez", response_model=State, responses=_NOT_READY)
async def livez(service: ServiceDep) -> Response | State:
    """200 while the process can be trusted to help itself; 503 asks for a restart."""
    return State(state="alive") if service.alive else _unwell(service.state)


@router.head("/readyz", response_model=None, include_in_schema=False)
@router.get("/readyz", response_model=State, responses=_NOT_READY)
async def readyz(service: ServiceDep) -> Response | State:
    """200 while work is accepted: every model was loaded and has passed its self-test, and one
    of them runs at least.
    """
    return State(state=service.state) if service.ready else _unwell(service.state)


@router.get("/metrics", response_class=Response)
async def metrics(service: ServiceDep) -> Response:
    """All metrics in the Prometheus text format."""
    return Response(service.metrics.render(), headers={"content-type": CONTENT_TYPE_LATEST})


@router.get("/info", responses=_NOT_READY)
async def info(service: ServiceDep) -> Info:
    """What is served, how, and within which limits."""
    students = service.at_work()
    engine = students.default.engine
    limits = {"max_tokens": engine.manifest.max_tokens, **engine.settings.model_dump()}
    return Info(
        **facts(engine),
        model=ModelInfo.model_validate(engine.manifest),
        models=[_served(each, students) for each in students],
        runtime=_runtime(engine),
        limits=Limits.model_validate(limits),
        versions=versions(),
    )


def _served(served: Served, students: Students) -> ServedModel:
    engine = served.engine
    return ServedModel(
        **ModelInfo.model_validate(engine.manifest).model_dump(),
        max_tokens=engine.manifest.max_tokens,
        ready=served.ready,
        runtime=_runtime(engine),
        fitted_heads={name: _fitted(head.file) for name, head in engine.heads.fitted.items()},
        refused_heads=students.refused_heads(engine),
    )


def _fitted(file: HeadFile) -> FittedHeadInfo:
    return FittedHeadInfo(
        **TaskInfo.model_validate(file.task).model_dump(),
        revision=file.fitted_on.revision,
        rows=file.expected.rows,
        expected_accuracy=file.expected.accuracy,
        created=file.created,
    )


def _runtime(engine: Engine) -> RuntimeInfo:
    variant, settings = engine.session.variant, engine.settings
    return RuntimeInfo(
        precision=variant.precision,
        target=variant.target,
        file=variant.file,
        provider=engine.session.providers[0],
        cpu=cpu_name(),
        runners=settings.runners,
        intra_op_threads=settings.intra_op_threads,
    )


def _unwell(state: str) -> Response:
    return error_response(Told(503, NotReadyError.code, state))
