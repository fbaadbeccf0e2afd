"""Add variants to a model folder: all of them once they are held to their tolerances, or none."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import onnx

from app.errors import VariantError
from app.runtime.artifact import (
    MANIFEST_FILE,
    Manifest,
    Precision,
    Target,
    Tolerance,
    Variant,
    load_manifest,
    save_manifest,
    sha256_of,
    verify_file,
)
from app.runtime.tokenizer import Encoded, Text, Tokenizer
from distill.padding import with_padding
from distill.parity import BATCH_TEXTS, Parity, gate, gate_golden, served_outputs

Small = Literal["int8-avx2", "int8-vnni", "fp16"]
Make = Callable[[Small], onnx.ModelProto]


class Kind(NamedTuple):
    """What a manifest says of a variant, and with how many bits `qat` trains its weights."""

    precision: Precision
    target: Target
    weight_bits: int


KINDS: dict[Small, Kind] = {
    "int8-avx2": Kind("int8", "cpu-avx2", 7),
    "int8-vnni": Kind("int8", "cpu-vnni", 8),
    "fp16": Kind("fp16", "cuda", 16),
}


@dataclass(frozen=True)
class Source:
    """The fp32 variant of a model folder, which others are made from and held against."""

    folder: Path
    manifest: Manifest
    variant: Variant

    @property
    def graph(self) -> onnx.ModelProto:
        """With padding, as `distill.graph` writes it."""
        model = onnx.load(verify_file(self.folder, self.variant))
        with_padding(model)
        return model

    def encode(self, texts: Sequence[Text], *, truncate: bool) -> list[Encoded]:
        """Texts as the student reads them.

        Raises:
            TextTooLongError: one exceeds its token limit, and is not to be cut.
        """
        file = verify_file(self.folder, self.manifest.tokenizer)
        tokenizer = Tokenizer.load(file, max_tokens=self.manifest.max_tokens)
        return tokenizer.encode(texts, truncate=truncate)


def source_of(folder: Path) -> Source:
    """The fp32 variant of a model folder.

    Raises:
        ManifestError: the folder is not a model folder.
        VariantError: it holds no fp32 variant to start from.
    """
    manifest = load_manifest(folder)
    for variant in manifest.variants:
        if variant.precision == "fp32":
            return Source(folder, manifest, variant)
    held = ", ".join(variant.precision for variant in manifest.variants)
    raise VariantError(f"{folder} holds {held}; smaller ones start from fp32: export it again")


def add_variants(
    source: Source,
    make: Make,
    tolerances: Mapping[Small, Tolerance],
    *,
    texts: Sequence[Text],
    keep_fp32: bool,
) -> dict[Small, Parity]:
    """Make variants, hold each against fp32, and list them; return how far each is from it.

    Scores that the manifest has of variants of these precisions go: they are of other graphs.

    Args:
        source: the folder's fp32 variant.
        make: what makes a variant's graph.
        tolerances: the variants to make, and how far each may stray.
        texts: the ones that are compared.
        keep_fp32: whether the fp32 variant stays in the folder.

    Raises:
        ManifestError: the folder was altered.
        ParityError: a variant strays further than its tolerance; the folder is as it was.
    """
    folder, manifest = source.folder, source.manifest
    reference = served_outputs(folder, manifest, source.variant, texts, batch_texts=BATCH_TEXTS)
    parities: dict[Small, Parity] = {}
    made: list[Variant] = []
    with tempfile.TemporaryDirectory(dir=folder) as staging:
        for small, tolerance in tolerances.items():
            graph = Path(staging) / f"student-{small}.onnx"
            onnx.save(make(small), graph)
            variant = _variant(graph, folder, small, tolerance)
            parities[small] = gate(folder, manifest, variant, texts, reference)
            gate_golden(folder, manifest, variant)
            made.append(variant)
        made = [v.model_copy(update={"file": Path(v.file).name}) for v in made]
        dropped = None if keep_fp32 else source.variant
        listed = save_manifest(Path(staging), _listing(manifest, made, dropped=dropped))
        # Only now does the folder change, by renames alone: they need no room on the disk.
        for variant in made:
            (Path(staging) / variant.file).replace(folder / variant.file)
        listed.replace(folder / MANIFEST_FILE)
    if dropped:
        (folder / dropped.file).unlink()
    return parities


def told(parity: Parity) -> str:
    """How far a variant is from fp32, in words."""
    errors = ", ".join(f"{t} {error:.4f}" for t, error in parity.max_probability_error.items())
    return (
        f"cosine to fp32 at least {parity.min_cosine:.4f}, mean {parity.mean_cosine:.4f}; "
        f"largest error of a probability: {errors or 'no heads'}"
    )


def _variant(graph: Path, folder: Path, small: Small, tolerance: Tolerance) -> Variant:
    return Variant(
        file=graph.relative_to(folder).as_posix(),
        sha256=sha256_of(graph),
        precision=KINDS[small].precision,
        target=KINDS[small].target,
        bytes=graph.stat().st_size,
        tolerance=tolerance,
    )


def _listing(manifest: Manifest, made: list[Variant], *, dropped: Variant | None) -> Manifest:
    replaced = {(variant.precision, variant.target) for variant in made}
    kept = [
        v for v in manifest.variants if (v.precision, v.target) not in replaced and v != dropped
    ]
    remade = {variant.precision for variant in made}
    metrics = {name: of for name, of in manifest.provenance.metrics.items() if name not in remade}
    provenance = manifest.provenance.model_copy(update={"metrics": metrics})
    changes = {"variants": (*kept, *made), "provenance": provenance}
    return manifest.model_copy(update=changes)
