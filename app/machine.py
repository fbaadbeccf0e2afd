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
    value: str
    """As it is used; stars for a secret."""
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
            Setting(variable, str(value), variable in given)
            for variable, value in ((PREFIX + name.upper(), value) for name, value in settings)
        ],
    )
