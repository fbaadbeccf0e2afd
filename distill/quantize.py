"""Verb: add smaller variants of the fp32 graph to a model folder.

    lightmbert distill quantize distill/recipes/mini-6-ship.toml

int8 is for CPUs: `int8-avx2` for all of them, `int8-vnni` for those with VNNI. fp16 is for CUDA.
Each is held against the fp32 variant, which is held against torch by `export`, before the
manifest lists it. Where int8 loses more than it may, `qat` is the way back.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnx
from rich.console import Console

from app.runtime.artifact import Tolerance
from app.runtime.tokenizer import Text
from distill.config import LoadedRecipe, require
from distill.corpus import load_corpus
from distill.fp16 import fp16
from distill.int8 import int8
from distill.parity import Parity
from distill.variants import KINDS, Small, add_variants, source_of, told
from distill.word_table import Block


def quantize_student(
    model_dir: Path,
    *,
    tolerances: dict[Small, Tolerance],
    calibration: Sequence[str],
    texts: Sequence[Text],
    keep_fp32: bool,
    block: Block = "row",
    fp16_table: Literal["fp16", "int8"] = "fp16",
) -> dict[Small, Parity]:
    """Add a variant per tolerance to a model folder; return how far each is from fp32.

    Args:
        model_dir: holds the fp32 variant.
        tolerances: how far each variant to be made may stray from it.
        calibration: where int8 takes the ranges of activations from; cut at the token limit.
        texts: the ones that are compared.
        keep_fp32: whether the fp32 variant stays in the folder.
        block: which values of the word table share a scale, where it is int8.
        fp16_table: what the word table of the fp16 variant is.

    Raises:
        ManifestError: the folder is not a model folder, or was altered.
        VariantError: it holds no fp32 variant to start from.
        QuantizeError: part of the graph was left as it was.
        ParityError: a variant strays further than its tolerance; the folder is as it was.
    """
    source = source_of(model_dir)
    model = source.graph
    calibrating = source.encode(calibration, truncate=True)

    def make(small: Small) -> onnx.ModelProto:
        if small == "fp16":
            return fp16(model, block=block if fp16_table == "int8" else None)
        return int8(model, calibrating, saturates=KINDS[small].target == "cpu-avx2", block=block)

    return add_variants(source, make, tolerances, texts=texts, keep_fp32=keep_fp32)


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
        block=table.word_table_block,
        fp16_table=table.fp16_word_table,
    )
    for small, parity in parities.items():
        Console().print(f"{small}: {told(parity)}")
