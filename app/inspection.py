"""What a model folder says of itself, and whether it is true on this machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.errors import ManifestError, VariantError
from app.runtime.artifact import MANIFEST_FILE, Manifest, load_manifest, verify_file
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Listed:
    """One model folder in a line."""

    folder: str
    name: str
    revision: str
    languages: int
    tasks: list[str]
    precisions: list[str]
    megabytes: float
    """Of all variants together."""

    def __str__(self) -> str:
        tasks = ", ".join(self.tasks) or "no tasks"
        made = f"{'/'.join(self.precisions)}, {self.megabytes:.1f} MB"
        return f"{self.folder}  {self.name} {self.revision}: {self.languages} languages, {tasks}, {made}"


@dataclass(frozen=True)
class Unlisted:
    """A folder whose manifest cannot be used."""

    folder: str
    error: str

    def __str__(self) -> str:
        return f"{self.folder}  cannot be used: {' '.join(self.error.split())}"


@dataclass(frozen=True)
class Verified:
    """A file of a model folder whose hash holds."""

    file: str
    golden: int | None = None
    """How many golden outputs hold; None where nothing was run."""
    not_run: str | None = None
    """Why, of a variant that this machine cannot run."""

    def __str__(self) -> str:
        held = f"; {self.golden} golden outputs hold" if self.golden else ""
        not_run = f"; not run: {self.not_run}" if self.not_run else ""
        return f"{self.file}: the hash holds{held}{not_run}"


def listed(root: Path) -> list[Listed | Unlisted]:
    """The model folders in `root`, by name, and `root` itself if it is one.

    Raises:
        ManifestError: there are none.
    """
    found = [*root.glob(MANIFEST_FILE), *sorted(root.glob(f"*/{MANIFEST_FILE}"))]
    if not found:
        raise ManifestError(f"{root} holds no model folder, which is one with a {MANIFEST_FILE}")
    return [_listed(path.parent) for path in found]


def _listed(folder: Path) -> Listed | Unlisted:
    try:
        manifest = load_manifest(folder)
    except ManifestError as error:
        return Unlisted(str(folder), str(error))
    return Listed(
        str(folder),
        manifest.name,
        manifest.revision,
        len(manifest.languages),
        list(manifest.tasks),
        sorted({each.precision for each in manifest.variants}),
        sum(each.bytes for each in manifest.variants) / 1e6,
    )


def description(manifest: Manifest) -> Iterator[str]:
    """The manifest in lines for people."""
    origin = manifest.provenance
    yield f"{manifest.name} {manifest.revision}, {manifest.license}"
    yield f"languages  {len(manifest.languages)}: {' '.join(manifest.languages)}"
    yield f"embedding  {manifest.embedding_dimension} dimensions"
    yield f"texts      up to {manifest.max_tokens} tokens"
    for name, task in manifest.tasks.items():
        yield f"task       {name}{' of pairs' if task.pair else ''}: {', '.join(task.labels)}"
    for each in manifest.variants:
        size = f"{each.bytes / 1e6:.1f} MB"
        yield f"variant    {each.file}: {each.precision} for {each.target}, {size}"
    yield f"made       {origin.created} from {origin.teacher} by {origin.recipe}"


def verification(folder: Path) -> Iterator[Verified]:
    """Each file of the folder that was found to hold.

    Raises:
        ManifestError: a file is missing, altered, or not what the manifest says.
        SelfTestError: a variant does not give the golden outputs on this machine.
    """
    manifest = load_manifest(folder)
    path = verify_file(folder, manifest.tokenizer)
    tokenizer = Tokenizer.load(path, max_tokens=manifest.max_tokens)
    yield Verified(manifest.tokenizer.file)
    for variant in manifest.variants:
        verify_file(folder, variant)
        alone = manifest.model_copy(update={"variants": (variant,)})
        yield _self_tested(folder, alone, tokenizer)


def _self_tested(folder: Path, manifest: Manifest, tokenizer: Tokenizer) -> Verified:
    """How the manifest's one variant does, where this machine can run it."""
    [variant] = manifest.variants
    try:
        session = StudentSession.load(
            folder,
            manifest,
            device="cuda" if variant.target == "cuda" else "cpu",
            precision="auto",
            intra_op_threads=1,
        )
    except VariantError as error:
        return Verified(variant.file, not_run=str(error))
    session.self_test(tokenizer)
    return Verified(variant.file, golden=len(manifest.golden))
