"""Quantization-aware training: how an encoder learns to be int8."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from distill.tables.table import Share, Table
from distill.tables.text import Corpora, Texts


class QatTable(Table):
    """Fine-tune an encoder under rounding against itself, and add it as an int8 variant."""

    encoder: Path
    """The encoder folder that `model_dir` was exported from; it stays as it is."""
    model_dir: Path
    """Holds the fp32 variant, which the new one is held against."""
    variant: Literal["int8-avx2", "int8-vnni"]
    form: Literal["qdq", "fused"]
    """Operators of ONNX itself, or the faster ones of ONNX Runtime (see NOTES.md)."""
    word_table_block: PositiveInt | Literal["row"]
    corpus: Corpora
    exponent: Share
    """Languages are drawn with probability ~ rows ** exponent."""
    max_tokens: PositiveInt
    """Longer texts are cut."""
    batch_texts: PositiveInt
    steps: PositiveInt
    warmup_steps: PositiveInt
    learning_rate: PositiveFloat
    """Of weights; the word table and the rest of the embedding block stay."""
    step_learning_rate: PositiveFloat
    """Of the steps of rounding, as a share of each step's first size."""
    hidden_weight: NonNegativeFloat
    """Of the squared error of hidden states."""
    pooled_weight: NonNegativeFloat
    """Of the squared distance of unit embeddings."""
    calibration_batches: PositiveInt
    """Batches that the first steps are fit to."""
    cut: Annotated[float, Field(ge=0, lt=0.5)]
    """Share of the values at either end that the first steps do not reach."""
    min_cosine: Share
    max_probability_error: Share
    keep_fp32: bool
    parity_texts: Texts

    @model_validator(mode="after")
    def _something_is_learned(self) -> "QatTable":
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} exceed steps {self.steps}")
        if self.hidden_weight == self.pooled_weight == 0:
            raise ValueError("hidden_weight and pooled_weight are both 0: nothing is learned")
        return self
