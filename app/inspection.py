"""What a model folder says of itself, and whether it is true on this machine."""

from collections.abc import Iterator
from pathlib import Path

from app.errors import VariantError
from app.runtime.artifact import Manifest, load_manifest, verify_file
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer


def description(folder: Path) -> Iterator[str]:
    """The manifest in lines for people.

    Raises:
        ManifestError: there is none, or it is malformed.
    """
    manifest = load_manifest(folder)
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


def verification(folder: Path) -> Iterator[str]:
    """One line per file of the folder that was found to hold.

    Raises:
        ManifestError: a file is missing, altered, or not what the manifest says.
        SelfTestError: a variant does not give the golden outputs on this machine.
    """
    manifest = load_manifest(folder)
    path = verify_file(folder, manifest.tokenizer)
    tokenizer = Tokenizer.load(path, max_tokens=manifest.max_tokens)
    yield f"{manifest.tokenizer.file}: the hash holds"
    for variant in manifest.variants:
        verify_file(folder, variant)
        alone = manifest.model_copy(update={"variants": (variant,)})
        yield f"{variant.file}: the hash holds; {_self_test(folder, alone, tokenizer)}"


def _self_test(folder: Path, manifest: Manifest, tokenizer: Tokenizer) -> str:
    """How the manifest's one variant does, where this machine can run it."""
    try:
        session = StudentSession.load(
            folder,
            manifest,
            device="cuda" if manifest.variants[0].target == "cuda" else "cpu",
            precision="auto",
            intra_op_threads=1,
        )
    except VariantError as error:
        return f"not run: {error}"
    session.self_test(tokenizer)
    return f"{len(manifest.golden)} golden outputs hold"
