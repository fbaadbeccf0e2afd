"""What is spoken at the paths of Text Embeddings Inference: dialect, bodies, and one way to answer.

Its bodies hold `inputs` and name neither model nor task, so the query may: `?model=`, `?task=`.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request, Response
from pydantic import AfterValidator, BaseModel
from pydantic_core import PydanticCustomError

from app.admission import Terms
from app.api.answers import answer, usage_headers
from app.api.bodies import Body, Described
from app.api.dialects import Dialect, Told
from app.api.requests import admitted, body_of, engine_for, unless_gone
from app.engine import Engine
from app.forward import Usage
from app.runtime.tokenizer import Cut


class TEIError(Described):
    error: str
    error_type: Literal[
        "Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty", "Unauthorized"
    ]


_TYPES_BY_CODE = {
    "overloaded": "Overloaded",
    "deadline_exceeded": "Overloaded",
    "inference_failed": "Backend",
    "no_texts": "Empty",
    "unauthorized": "Unauthorized",
}
_STATUS_BY_CODE = {"inference_failed": 424, "no_texts": 400}


def _tell(told: Told) -> tuple[int, dict[str, Any]]:
    by_status = {500: "Backend", 503: "Unhealthy"}.get(told.status, "Validation")
    kind = _TYPES_BY_CODE.get(told.code, by_status)
    status = _STATUS_BY_CODE.get(told.code, told.status)
    return status, {"error": told.message, "error_type": kind}


TEI = Dialect(_tell, TEIError).naming(texts="inputs", task="?task", model="?model")


def _none_known(prompt_name: str | None) -> None:
    if prompt_name is not None:
        raise PydanticCustomError("no_prompts", "this model has no prompts; leave it out")


Direction = Literal["Right", "Left", "right", "left"]
PromptName = Annotated[str | None, AfterValidator(_none_known)]


class Options(Body):
    """What most bodies may say besides."""

    truncate: bool | None = None
    """Texts above the token limit are cut unless this is false; how many were is said in the header
    `x-lightmbert-truncated-texts`."""
    truncation_direction: Direction = "Right"
    """Which end of a text goes."""
    prompt_name: PromptName = None
    """No student has prompts."""

    def reading(self) -> dict[str, Any]:
        """The same for the engine."""
        cut: Cut = "beginning" if self.truncation_direction.lower() == "left" else "end"
        return {"truncate": self.truncate is not False, "cut": cut}


@dataclass(frozen=True)
class Asked:
    """What a request says outside its body."""

    task: str | None
    terms: Terms


@dataclass(frozen=True, eq=False)
class Answered:
    content: Callable[[], Any]
    """The JSON."""
    task: str
    """As metrics call it."""
    usage: Usage | None = None


BodyT = TypeVar("BodyT", bound=BaseModel)
Operation = Callable[[Engine, BodyT, Asked], Coroutine[Any, Any, Answered]]


async def respond(request: Request, model: type[BodyT], operation: Operation[BodyT]) -> Response:
    """A route that takes one kind of body."""
    terms = admitted(request)
    return await answered(request, await body_of(request, model), operation, terms=terms)


async def answered(
    request: Request, body: BodyT, operation: Operation[BodyT], *, terms: Terms
) -> Response:
    """The 200 of one operation on one body."""
    engine = engine_for(request, request.query_params.get("model"))
    asked = Asked(request.query_params.get("task"), terms)
    found = await unless_gone(request, operation(engine, body, asked))
    request.state.task = found.task
    headers = usage_headers(found.usage) if found.usage else None
    return answer(engine.metrics, found.content, headers)
