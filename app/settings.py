"""One field per `LIGHTMBERT_*` variable: typed, frozen, and no name goes unnoticed.

The flags of `lightmbert serve` and what its help says of them are made from this file.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.runtime.cpus import allowed_cpus
from app.runtime.providers import Device, PrecisionChoice

PREFIX = "LIGHTMBERT_"
EMBEDDED_STUDENT = Path(__file__).resolve().parent.parent / "models" / "lightmbert-mini"


def _default_threads(known: dict[str, Any]) -> int:
    """Threads of one run. Several small runs beat one wide run until there are many CPUs."""
    cpus = allowed_cpus()
    if known.get("device") == "cuda" or cpus < 4:
        return 1
    return 2 if cpus < 16 else 4


def _default_runners(known: dict[str, Any]) -> int:
    """Runs at a time: the CPUs shared out among runs; a GPU runs one batch after another."""
    if known.get("device") == "cuda":
        return 1
    threads: int = known.get("intra_op_threads", 1)
    return max(1, allowed_cpus() // threads)


def _default_autotune(known: dict[str, Any]) -> bool:
    """On two CPUs the plans are too alike for the time it takes; a GPU has nothing to tune."""
    return known.get("device") == "cpu" and allowed_cpus() > 2


def _default_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "lightmbert"


def _default_heads_dir() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(data) / "lightmbert" / "heads"


def _default_batch_tokens(known: dict[str, Any]) -> int:
    """A CPU is saturated by few tokens, and beyond that a batch only makes callers wait."""
    return 16_384 if known.get("device") == "cuda" else 256


def _affordable(workers: int) -> int:
    if workers > (cpus := allowed_cpus()):
        raise ValueError(f"at most {cpus}, one for each CPU that this process may use")
    return workers


def _folders(given: object) -> object:
    """One path, several as PATH has them, or a sequence, in which None stands for nothing given."""
    if isinstance(given, str):
        return tuple(filter(None, given.split(os.pathsep)))
    return (given,) if isinstance(given, Path) else given


def _splittable(folder: Path) -> Path:
    if os.pathsep in str(folder):
        raise ValueError(f"{folder} holds {os.pathsep!r}, which separates folders")
    return folder


Folder = Annotated[Path, AfterValidator(_splittable)]
Folders = Annotated[tuple[Folder, ...], NoDecode, BeforeValidator(_folders), Field(min_length=1)]
_ORIGIN = re.compile(r"\*|https?://[^/,\s?#@]+")


def _origins(given: str) -> str:
    """The same without spaces."""
    origins = [origin.strip() for origin in given.split(",") if origin.strip()]
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin: scheme://host or scheme://host:port, or *")
    return ",".join(origins)


Origins = Annotated[str, AfterValidator(_origins)]
Key = Annotated[SecretStr, Field(min_length=1)]


class Settings(BaseSettings):
    """How the service runs. Names carry their unit."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_prefix_target="all",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    model_dirs: Annotated[Folders, Field(alias="model_dir")] = (EMBEDDED_STUDENT,)
    """The model folders to serve; the first is meant where a request names no model."""

    models_root: Path | None = None
    """Where the model folders lie that may be loaded while the service runs; without it, none."""

    host: str = "127.0.0.1"
    """Where to listen; 0.0.0.0 for callers on other machines."""

    port: Annotated[int, Field(ge=0, le=65_535)] = 8_000
    """0 is any free one."""

    workers: Annotated[PositiveInt, AfterValidator(_affordable)] = 1
    """Processes that answer on the one port, each with its share of the CPUs and its own model."""

    device: Device = "cpu"
    """Where the student runs. There is no fall-back from one to the other."""

    precision: PrecisionChoice = "auto"
    """Which variant to serve; auto is the best one for the device and the processor."""

    intra_op_threads: PositiveInt = Field(default_factory=_default_threads)
    """Threads of one forward pass."""

    runners: PositiveInt = Field(default_factory=_default_runners)
    """Forward passes at a time."""

    threads_alone: PositiveInt | None = None
    """Threads for a single text beside which nothing runs. If more than `intra_op_threads`, the
    model is kept in memory twice. By default up to 4 for fp32 and no more for int8, whose steps
    are too short to be shared."""

    autotune: bool = Field(default_factory=_default_autotune)
    """Whether to measure, at the first start, how many runners and threads suit this machine."""

    cache_dir: Path = Field(default_factory=_default_cache_dir)
    """Where the result is kept. It need not exist or be writable."""

    max_batch_tokens: PositiveInt = Field(default_factory=_default_batch_tokens)
    """Padded tokens per forward pass: longest text times texts. One text always fits."""

    max_queue_tokens: PositiveInt = 262_144
    """Tokens that may wait for a runner, of each class; a request beyond it is refused at once."""

    max_queue_bytes: PositiveInt = 67_108_864
    """Bytes of texts whose request has no answer yet, of each class."""

    max_wait_s: PositiveFloat = 1.0
    """A request is refused at once if it would be begun later than this, as predicted."""

    bulk_max_wait_s: PositiveFloat = 60.0
    """The same for large requests."""

    max_timeout_s: PositiveFloat = 300.0
    """The longest deadline that a caller may set."""

    bulk_texts: PositiveInt = 32
    """A request with so many texts is bulk, unless its caller says otherwise: it gets a fifth of
    the time while there are interactive ones, and all of it while there are none."""

    bulk_tokens: PositiveInt = 4_096
    """A request with so many tokens is bulk too; taken as two characters each, before they are
    counted."""

    cache_bytes: Annotated[int, Field(ge=0)] = 0
    """Bytes for results of texts that may be asked again; 0 keeps none."""

    max_texts_per_request: PositiveInt = 2_048
    """A request with more texts is refused."""

    max_body_bytes: PositiveInt = 8_388_608
    """A request with a larger body is refused."""

    default_task: str | None = None
    """The head that classifies where a caller names none and the model has several."""

    heads_dir: Path = Field(default_factory=_default_heads_dir)
    """Where `lightmbert head fit` puts heads, and where the service looks for them."""

    run_timeout_s: PositiveFloat = 30.0
    """Seconds for one batch; one that takes longer is an error for its callers."""

    faults_until_exit: PositiveInt = 3
    """How often in a row the model may have to be opened anew until the process ends."""

    drain_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds after SIGTERM in which work is still accepted while `/readyz` already says 503."""

    drain_timeout_s: Annotated[float, Field(ge=0)] = 10.0
    """Seconds to finish accepted requests in, after `drain_delay_s`."""

    api_key: Key | None = None
    """If set, requests for work must carry it, or the other: `Authorization: Bearer <key>`."""

    admin_key: Key | None = None
    """Opens the routes that change what is served; without it they are closed."""

    cors_origins: Origins | None = None
    """Whose pages may call from a browser, separated by commas: `https://shop.example`; * is
    anybody's. The page at / needs none."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged: this and what is worse."""

    @property
    def model_dir(self) -> Path:
        """The first model folder, or the only one."""
        return self.model_dirs[0]

    def for_student(self, folder: Path) -> "Settings":
        """The same for the student in one folder alone."""
        return self.model_copy(update={"model_dirs": (folder,)})

    def variables(self) -> dict[str, str]:
        """The environment that sets what was set here, secrets included."""
        given = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        given |= {  # a dump hides them, as a log should
            name: secret.get_secret_value()
            for name in given
            if isinstance(secret := getattr(self, name), SecretStr)
        }
        if "model_dir" in given:
            given["model_dir"] = os.pathsep.join(given["model_dir"])
        return {PREFIX + name.upper(): str(value) for name, value in given.items()}


def fields_by_name() -> dict[str, FieldInfo]:
    """The settings by the names that their variables and flags have."""
    return {field.alias or name: field for name, field in Settings.model_fields.items()}


def load_settings(**given: object) -> Settings:
    """Settings from the environment, and from what was `given` instead, unless that is None or empty.

    Raises:
        ValueError: a `LIGHTMBERT_*` variable is not a setting, or its value is not valid.
    """
    known = {PREFIX + name.upper() for name in fields_by_name()}
    unknown = sorted(
        name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known
    )
    if unknown:
        raise ValueError(
            f"unknown settings: {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    return Settings.model_validate({k: v for k, v in given.items() if v not in (None, ())})
