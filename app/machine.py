"""What a student would run on here, and by which settings: the facts that a question begins with."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

from app.runtime.cpus import allowed_cpus, cpu_model, cpu_name
from app.runtime.providers import devices
from app.settings import PREFIX, Settings
from app.versions import versions


@dataclass(frozen=True)
class Setting:
    variable: str
    value: str | float | bool | None
    """As it is used; stars for a secret, a colon between several folders."""
    set: bool
    """Whether the environment says so; otherwise it is the default for this machine."""


@dataclass(frozen=True)
class Machine:
    python: str
    versions: dict[str, str]
    cpu: str
    cpus: int
    """That this process may use."""
    devices: Sequence[str]
    settings: list[Setting]


def described(settings: Settings) -> Machine:
    given = {name.upper() for name in os.environ}
    return Machine(
        python=platform.python_version(),
        versions=versions(),
        cpu=f"{cpu_model()}, {cpu_name()}",
        cpus=allowed_cpus(),
        devices=devices(),
        settings=[
            Setting(variable, _shown(getattr(settings, name)), variable in given)
            for name, variable in _variables()
        ],
    )


def _variables() -> list[tuple[str, str]]:
    """The attribute of each setting, and its variable."""
    fields = Settings.model_fields.items()
    return [(name, PREFIX + (field.alias or name).upper()) for name, field in fields]


def _shown(value: object) -> str | float | bool | None:
    if value is None or isinstance(value, str | float | int):
        return value
    return os.pathsep.join(map(str, value)) if isinstance(value, tuple) else str(value)
