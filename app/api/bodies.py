"""What all bodies have in common, and the pieces of schema that several of them are made of."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """What callers send: nothing but the keys there are, each of its own type.

    Validators are built for the first caller that sends one: most services speak one contract.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, use_attribute_docstrings=True, defer_build=True
    )


class Described(BaseModel):
    """What callers get, where it is written without this model: the document alone is made of it."""

    model_config = ConfigDict(defer_build=True)


TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}}


def several(*kinds: dict[str, Any]) -> dict[str, Any]:
    """The schema of a list of such items."""
    items = kinds[0] if len(kinds) == 1 else {"anyOf": [*kinds]}
    return {"type": "array", "items": items, "minItems": 1}


def as_list(texts: object) -> object:
    """One text as a list of one."""
    return [texts] if isinstance(texts, str) else texts
