"""Verb: add smaller variants of the fp32 graph to a model folder.

    lightmbert distill quantize distill/recipes/mini-6-ship.toml

int8 is for CPUs: with weights of 7 bits for all of them, of 8 for those with VNNI. fp16 is for
CUDA. Each is held against the fp32 variant, which is held against
torch by `export`, before the manifest lists it.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import onnx
from rich.console import Console

from app.errors import VariantError
from app.runtime.artifact import (
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
from distill.config import LoadedRecipe, require
from distill.corpus import load_corpus
from distill.fp16 import fp16
from distill.int8 import int8
from distill.parity import BATCH_TEXTS, Parity, gate, gate_golden, served_outputs

Small = Literal["int8-avx2", "int8-vnni", "fp16"]


class _Kind(NamedTuple):
    precision: Precision
    target: Target
    weight_bits: int


KINDS: dict[Small, _Kind] = {
    "int8-avx2": _Kind("int8", "cpu-avx2", 7),
    "int8-vnni": _Kind("int8", "cpu-vnni", 8),
    "fp16": _Kind("fp16", "cuda", 16),
}


def quantize_student(
    model_dir: Path,
    *,
    tolerances: dict[Small, Tolerance],
    calibration: Sequence[str],
    texts: Sequence[Text],
    keep_fp32: bool,
) -> dict[Small, Parity]:
    """Add a variant per tolerance to a model folder; return how far each is from fp32.

    Args:
        model_dir: holds the fp32 variant.
        tolerances: how far each variant to be made may stray from it.
        calibration: where int8 takes the ranges of activations from; cut at the token limit.
        texts: the ones that are compared.
        keep_fp32: whether the fp32 variant stays in the folder.

    Raises:
        ManifestError: the folder is not a model folder, or was altered.
        VariantError: it holds no fp32 variant to start from.
        QuantizeError: part of the graph was left as it was.
        ParityError: a variant strays further than its tolerance; the manifest is as it was.
    """
    manifest = load_manifest(model_dir)
    source = _fp32_of(manifest, model_dir)
    model = onnx.load(verify_file(model_dir, source))
    reference = served_outputs(model_dir, manifest, source, texts, batch_texts=BATCH_TEXTS)
    tokenizer = Tokenizer.load(
        verify_file(model_dir, manifest.tokenizer), max_tokens=manifest.max_tokens
    )
    calibrating = tokenizer.encode(calibration, truncate=True)
    parities: dict[Small, Parity] = {}
    made: list[Variant] = []
    with tempfile.TemporaryDirectory(dir=model_dir) as staging:
        for small, tolerance in tolerances.items():
            graph = Path(staging) / f"student-{small}.onnx"
            onnx.save(_made(model, small, calibrating), graph)
            variant = _variant(graph, model_dir, small, tolerance)
            parities[small] = gate(model_dir, manifest, variant, texts, reference)
            gate_golden(model_dir, manifest, variant)
            made.append(variant)
        # Only when all of them passed does the folder change.
        made = [_moved_up(model_dir, variant) for variant in made]
    _list(model_dir, manifest, made, dropped=None if keep_fp32 else source)
    return parities


def _made(model: onnx.ModelProto, small: Small, calibrating: Sequence[Encoded]) -> onnx.ModelProto:
    if small == "fp16":
        return fp16(model)
    return int8(model, calibrating, weight_bits=KINDS[small].weight_bits)


def _fp32_of(manifest: Manifest, model_dir: Path) -> Variant:
    for variant in manifest.variants:
        if variant.precision == "fp32":
            return variant
    held = ", ".join(variant.precision for variant in manifest.variants)
    raise VariantError(f"{model_dir} holds {held}; quantize starts from fp32: export it again")


def _variant(graph: Path, model_dir: Path, small: Small, tolerance: Tolerance) -> Variant:
    return Variant(
        file=graph.relative_to(model_dir).as_posix(),
        sha256=sha256_of(graph),
        precision=KINDS[small].precision,
        target=KINDS[small].target,
        bytes=graph.stat().st_size,
        tolerance=tolerance,
    )


def _moved_up(model_dir: Path, variant: Variant) -> Variant:
    staged = model_dir / variant.file
    staged.replace(model_dir / staged.name)
    return variant.model_copy(update={"file": staged.name})


def _list(
    model_dir: Path, manifest: Manifest, made: list[Variant], *, dropped: Variant | None
) -> None:
    replaced = {(variant.precision, variant.target) for variant in made}
    kept = [
        v for v in manifest.variants if (v.precision, v.target) not in replaced and v != dropped
    ]
    save_manifest(model_dir, manifest.model_copy(update={"variants": (*kept, *made)}))
    if dropped:
        (model_dir / dropped.file).unlink()


def run(loaded: LoadedRecipe) -> None:
    """Add the variants that the recipe's `[quantize]` table names."""
    table = require(loaded.recipe.quantize, "quantize")
    corpus = load_corpus(table.calibration, exponent=0.0)
    drawn = corpus.draw(0, rows=table.calibration_texts, seed=loaded.recipe.run.seed)
    parities = quantize_student(
        table.model_dir,
        tolerances={
            small: Tolerance(
                min_cosine=table.min_cosine_fp16 if small == "fp16" else table.min_cosine_int8,
                max_probability_error=table.max_probability_error,
            )
            for small in table.variants
        },
        calibration=drawn.texts,
        texts=table.parity_texts,
        keep_fp32=table.keep_fp32,
    )
    for small, parity in parities.items():
        errors = ", ".join(
            f"{task} {values.max():.4f}" for task, values in parity.probability_errors.items()
        )
        Console().print(
            f"{small}: cosine to fp32 at least {parity.cosines.min():.4f}, mean "
            f"{parity.cosines.mean():.4f}; largest error of a probability: {errors or 'no heads'}"
        )
