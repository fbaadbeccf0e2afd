"""The contract of a model folder: `manifest.json`, the files it names, and their hashes.

`distill` writes a folder with `save_manifest`; the service reads it with `load_manifest`,
which refuses a folder whose files are missing, altered or outside of it.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from app.errors import ManifestError, shortened

MANIFEST_FILE = "manifest.json"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]
"""Within what float32 can divide any logit by."""
Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["cpu", "cpu-vnni", "cpu-avx2", "cuda"]


class _Contract(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HashedFile(_Contract):
    """A file inside the model folder, by its relative path."""

    file: Annotated[str, Field(max_length=255)]
    sha256: Sha256

    @field_validator("file")
    @classmethod
    def _stays_inside(cls, file: str) -> str:
        path = PurePosixPath(file)
        odd = "\\" in file or "\0" in file
        if path.is_absolute() or ".." in path.parts or odd or not path.parts:
            raise ValueError(f"{file!r} must be a relative path inside the model folder")
        return file


class Tolerance(_Contract):
    """How far this variant may stray from the golden outputs before it is refused."""

    min_cosine: Fraction
    max_probability_error: Fraction


class Variant(HashedFile):
    """One ONNX graph of the student: same inputs and outputs, other arithmetic."""

    precision: Precision
    target: Target
    bytes: PositiveInt
    tolerance: Tolerance


class ClassificationTask(_Contract):
    """A head inside the graph; its output is named `logits_<task>`, (B, C) float32."""

    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    problem_type: Literal["single", "multi"] = "single"
    temperature: Temperature = 1.0
    """Logits are divided by this before softmax or sigmoid."""
    threshold: Fraction | None = None
    """Multi-label: a label is given when its probability reaches this."""
    pair: bool = False
    """Whether the head reads (premise, hypothesis) rather than one text."""

    @field_validator("labels")
    @classmethod
    def _labels_are_distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        seen: set[str] = set()
        for label in labels:
            if label in seen:
                raise ValueError(f"labels repeat: {shortened(label)!r}")
            seen.add(label)
        return labels

    @model_validator(mode="after")
    def _leaves_a_choice(self) -> "ClassificationTask":
        if self.problem_type == "single" and len(self.labels) < 2:
            raise ValueError(f"a single label is chosen among two or more, not {len(self.labels)}")
        return self


class ZeroShot(_Contract):
    """How the cosine of a text and a label becomes a probability; it depends on the student.

    The defaults were measured on lightmbert-mini 0.1.1, see distill/NOTES.md; `evaluate` fits them.
    """

    temperature: Temperature = 0.087
    """One label: cosines are divided by this before softmax."""
    multi_temperature: Temperature = 0.13
    """Several: what a cosine has above `middle` is divided by this before sigmoid."""
    middle: Annotated[float, Field(ge=-1, le=1)] = 0.385
    """The cosine at which a label is as likely to fit as not."""


class Golden(_Contract):
    """One input with the outputs of the fp32 reference, checked before the service is ready."""

    text: str
    text_pair: str | None = None
    embedding: tuple[float, ...]
    """Unit vector, (D,)."""
    probabilities: dict[TaskName, tuple[float, ...]] = {}
    """Per task: (C,) after temperature and softmax or sigmoid."""


class Provenance(_Contract):
    """Where the student comes from, and how good it was measured to be."""

    teacher: str
    recipe: str
    recipe_sha256: Sha256
    data_fingerprint: str
    commit: str
    created: str
    """ISO 8601 date."""
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    """variant precision -> benchmark -> language -> score."""


class Manifest(_Contract):
    """What a model folder says of itself."""

    schema_version: Literal[1] = 1
    name: Name
    revision: str
    license: str
    languages: tuple[str, ...]
    hidden_width: PositiveInt
    embedding_dimension: PositiveInt
    max_tokens: PositiveInt
    """Per text, special tokens included."""
    tokenizer: HashedFile
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    tasks: dict[TaskName, ClassificationTask] = {}
    zero_shot: ZeroShot = ZeroShot()
    golden: Annotated[tuple[Golden, ...], Field(min_length=1)]
    provenance: Provenance

    @model_validator(mode="after")
    def _embedding_fits(self) -> "Manifest":
        if self.embedding_dimension > self.hidden_width:
            raise ValueError(
                f"embedding_dimension is {self.embedding_dimension}; the first dimensions of "
                f"pooled are served, and it has {self.hidden_width}"
            )
        return self

    @model_validator(mode="after")
    def _golden_fits(self) -> "Manifest":
        for index, golden in enumerate(self.golden):
            if len(golden.embedding) != self.embedding_dimension:
                raise ValueError(
                    f"golden[{index}] has {len(golden.embedding)} dimensions, "
                    f"the model {self.embedding_dimension}"
                )
            for task, probabilities in golden.probabilities.items():
                if task not in self.tasks or len(probabilities) != len(self.tasks[task].labels):
                    raise ValueError(f"golden[{index}].probabilities[{task!r}] fits no task")
        return self


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_manifest(folder: Path) -> Manifest:
    """Read and validate `folder/manifest.json`; file hashes are checked by `verify_file`.

    Raises:
        ManifestError: the folder or its manifest is missing, unreadable or malformed.
    """
    path = folder / MANIFEST_FILE
    if path.exists() and not path.is_file():
        raise ManifestError(f"{path} is no regular file")  # a pipe would be waited for
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ManifestError(f"{path} does not exist; is this a model folder?") from error
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ManifestError(f"{path} is not a valid manifest: {error}") from error


def load_manifests(folders: Iterable[Path]) -> dict[str, Manifest]:
    """The manifests of several folders by the names of their models.

    Raises:
        ManifestError: see `load_manifest`; or two models have one name.
    """
    manifests: dict[str, Manifest] = {}
    of: dict[str, Path] = {}
    for folder in folders:
        manifest = load_manifest(folder)
        if manifest.name in of:
            raise ManifestError(f"{of[manifest.name]} and {folder} are both named {manifest.name}")
        of[manifest.name], manifests[manifest.name] = folder, manifest
    return manifests


def verify_file(folder: Path, entry: HashedFile) -> Path:
    """Return the entry's path after checking that it lies inside and hashes as promised.

    Raises:
        ManifestError: the file is missing, leads outside the folder, or was altered.
    """
    path = _inside(folder, entry)
    _check_hash(path, sha256_of(path), entry)
    return path


def read_verified(folder: Path, entry: HashedFile) -> tuple[Path, bytes]:
    """As `verify_file`, with the bytes that were hashed, all of them in memory.

    Raises:
        ManifestError: see `verify_file`.
    """
    path = _inside(folder, entry)
    content = path.read_bytes()
    _check_hash(path, hashlib.sha256(content).hexdigest(), entry)
    return path, content


def _inside(folder: Path, entry: HashedFile) -> Path:
    path = (folder / entry.file).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ManifestError(f"{entry.file} leads outside {folder}")
    if not path.is_file():
        raise ManifestError(f"{folder / entry.file} is named in the manifest but does not exist")
    return path


def _check_hash(path: Path, found: str, entry: HashedFile) -> None:
    if found != entry.sha256:
        raise ManifestError(f"{path} has sha256 {found}; the manifest says {entry.sha256}")


def save_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write `folder/manifest.json` atomically and return its path."""
    path = folder / MANIFEST_FILE
    partial = path.with_suffix(".json.partial")
    partial.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path
