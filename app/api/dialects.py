"""How a contract tells an error: the status, the body, and its own word for what callers send.

Errors are raised in our words (`texts[3]`, status 422). A contract that copies another server's
says them as that server would, so that its clients read them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import Request

from app.api.bodies import Described
from app.errors import TRUNCATION_CURE


@dataclass(frozen=True)
class Told:
    """An error in our words."""

    status: int
    code: str
    message: str
    param: str | None = None
    as_sent: bool = False
    """Whether `param` is a place in the body as the caller sent it; else it is our name of one."""


@dataclass(frozen=True)
class Dialect:
    """One contract's way of telling errors."""

    tell: Callable[[Told], tuple[int, dict[str, Any]]]
    """The status and the JSON body."""
    error_body: Any
    """The model of that body, or a union of models."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Our names of fields to the contract's, where it has others."""
    truncates: bool = True
    """Whether its callers can ask to have a long text cut."""

    def naming(self, **fields: str) -> "Dialect":
        """The same with these names for fields of ours: `texts="input"`."""
        return replace(self, names={**self.names, **fields})

    def said(self, told: Told) -> tuple[int, dict[str, Any]]:
        """The error in this dialect."""
        return self.tell(self.worded(told))

    def worded(self, told: Told) -> Told:
        """The same with its names of places, and without a cure that its callers cannot use."""
        message, param = told.message, told.param
        if not self.truncates:
            message = message.removesuffix(TRUNCATION_CURE)
        if param is not None and not told.as_sent:
            name, *index = re.split(r"(?=\[)", param, maxsplit=1)
            param = "".join([self.names.get(name, name), *index])
            message = message.replace(told.param or "", param, 1)
        return replace(told, message=message, param=param)


class ErrorDetail(Described):
    code: str
    """Stable, for programs."""
    message: str
    """What was wrong, with the value, the limit and the place, for people."""
    param: str | None = None
    """The field at fault, such as `texts[3]`, where there is one."""


class ErrorBody(Described):
    """Every answer that is not a 200."""

    error: ErrorDetail


def _as_it_is(told: Told) -> tuple[int, dict[str, Any]]:
    detail = {"code": told.code, "message": told.message}
    return told.status, {"error": detail | ({"param": told.param} if told.param else {})}


NATIVE = Dialect(_as_it_is, ErrorBody)


def dialect_of(request: Request) -> Dialect:
    """What the handler has found the caller to speak; before that, what is spoken at that path, or
    at all that begin as it does.
    """
    found: Dialect | None = request.scope.get("state", {}).get("dialect")
    if found is not None:
        return found
    by_path: dict[str, Dialect] = request.app.state.dialects
    path: str = request.scope["path"]
    return by_path.get(path) or by_path.get("/" + path.lstrip("/").split("/")[0], NATIVE)
