"""The flags of `serve`, made from the fields of `Settings`: one each, and none for a secret.

A flag's value goes to `Settings` as it was typed, so that it is checked in one place, wherever it
came from. What is a secret comes from the environment only: a command line is seen by everybody
who may list processes.
"""

import os
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import SecretStr

from app.commands.options import model_folders
from app.settings import PREFIX, fields_by_name

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_SEVERAL = {"model_dir": "--model"}
"""Flags that may be given more than once, and what they are called then."""


def secrets() -> list[str]:
    """The variables that have no flag."""
    return [PREFIX + name.upper() for name, field in fields_by_name().items() if _is_secret(field)]


def parameters() -> list[Any]:
    """One option per setting, as typer makes them."""

    def serve(**given: object) -> None:
        """Only its signature is used."""

    defaults = _defaults()
    shown = [
        _flag(name, field, defaults[name])
        for name, field in fields_by_name().items()
        if not _is_secret(field)
    ]
    serve.__signature__ = Signature(shown)  # type: ignore[attr-defined]  # functions have one
    serve.__annotations__ = {}
    made = typer.Typer(add_completion=False)
    made.command()(serve)
    return typer.main.get_command(made).params


def _flag(name: str, field: "FieldInfo", default: object) -> Parameter:
    kind = _kind(field)
    chosen = kind is bool or get_origin(kind) is Literal
    names = [_SEVERAL[name], f"--{name.replace('_', '-')}"] if name in _SEVERAL else []
    option = typer.Option(
        *names,
        envvar=(variable := PREFIX + name.upper()),
        help=f"{field.description}  [{variable}={_shown(default)}]".replace("\n", " "),
        show_envvar=False,
        show_default=False,
        metavar=None if chosen else "<path>" if names else f"<{kind.__name__.lower()}>",
        autocompletion=model_folders if name == "model_dir" else None,
    )
    typed = kind if chosen else list[Path] if names else str
    annotation = Annotated[typed | None, option]  # type: ignore[valid-type]  # it is made here
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kind(field: "FieldInfo") -> Any:  # noqa: ANN401 - any annotation
    """The annotation without `| None` and without what constrains it."""
    kind = field.annotation
    if type(None) in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not type(None))
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_secret(field: "FieldInfo") -> bool:
    return _kind(field) is SecretStr


def _defaults() -> dict[str, Any]:
    """What each setting is on this machine where nothing is said of it."""
    known: dict[str, Any] = {}
    for name, field in fields_by_name().items():
        known[name] = field.get_default(call_default_factory=True, validated_data=known)
    return known


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return os.pathsep.join(map(str, default))
    return "none" if default is None else str(default)
