"""A tiny model folder with three variants."""

from collections.abc import Sequence
from pathlib import Path

from tiny_encoder import TEXTS, write_encoder_with_heads

from app.runtime.artifact import Tolerance
from distill.export import Card, export_student
from distill.heads import AnyHead, save_head
from distill.quantize import quantize_student


def write_model_dir(root: Path, *, revision: str = "1", heads: Sequence[AnyHead] = ()) -> Path:
    """`root/model`, in fp32, int8 and fp16, of the encoder in `root/encoder`.

    `heads` are beside those that it has anyway.
    """
    card = Card("tiny", revision, "Apache-2.0", ("en",), 48, TEXTS, "r.toml", "0" * 64)
    encoder = write_encoder_with_heads(root / "encoder")
    for head in heads:
        save_head(encoder, head)
    export_student(encoder, root / "model", card=card, min_cosine=0.9999)
    loose = Tolerance(min_cosine=0.9, max_probability_error=0.5)
    quantize_student(
        root / "model",
        tolerances={"int8-avx2": loose, "fp16": loose},
        calibration=TEXTS,
        texts=TEXTS,
        keep_fp32=True,
    )
    return root / "model"
