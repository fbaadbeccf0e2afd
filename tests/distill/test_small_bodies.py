"""Which bodies and tables have smaller variants, and what is said of those that have none."""

from pathlib import Path

import pytest
from tiny_encoder import TEXTS, roughen, write_encoder

from app.runtime.artifact import Tolerance, load_manifest
from distill.checkpoint import save_encoder
from distill.export import Card, export_student
from distill.quantize import quantize_student
from distill.student import student_of
from distill.tables.student import StudentTable
from distill.variants import Small
from distill.word_table import QuantizeError


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("bodies") / "start", num_hidden_layers=2)


def export(folder: Path, start: Path, **table: object) -> Path:
    whole = {"initialisation": "bottom", "embeddings": "frozen"} | table
    student = student_of(str(start), StudentTable.model_validate(whole))
    roughen(student.encoder)
    save_encoder(folder / "encoder", student, start / "tokenizer.json")
    card = Card("tiny", "1", "Apache-2.0", ("en",), 48, TEXTS, "r.toml", "0" * 64)
    export_student(folder / "encoder", folder / "model", card=card, min_cosine=0.9999)
    return folder / "model"


def quantize(model_dir: Path, *kinds: Small) -> None:
    limit = Tolerance(min_cosine=0.98, max_probability_error=0.2)
    quantize_student(
        model_dir,
        tolerances=dict.fromkeys(kinds, limit),
        calibration=TEXTS,
        texts=TEXTS,
        keep_fp32=True,
        fp16_table="int8",
    )


@pytest.mark.parametrize(
    "body",
    [
        ("attention", "feed-forward", "attention", "feed-forward"),
        ("attention", "attention", "feed-forward", "feed-forward"),
        ("feed-forward", "attention", "transformer"),
    ],
    ids="-".join,
)
def test_bodies_of_attention_and_feed_forward_have_all_variants(
    start: Path, tmp_path: Path, body: tuple[str, ...]
) -> None:
    model_dir = export(tmp_path, start, body=body)
    quantize(model_dir, "int8-avx2", "fp16")
    assert [v.precision for v in load_manifest(model_dir).variants] == ["fp32", "int8", "fp16"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"body": ("transformer", "dynamic-convolution")}, "dynamic convolutions.* fp32 alone"),
        (
            {"layers": 2, "embeddings": "factorised", "rank": 8},
            "factorised one has no smaller form",
        ),
    ],
    ids=["convolution", "factors"],
)
@pytest.mark.parametrize("kind", ["int8-avx2", "fp16"])
def test_others_are_refused_with_the_reason(
    start: Path, tmp_path: Path, table: dict[str, object], said: str, kind: Small
) -> None:
    model_dir = export(tmp_path, start, **table)
    before = load_manifest(model_dir)
    with pytest.raises(QuantizeError, match=said):
        quantize(model_dir, kind)
    assert load_manifest(model_dir) == before
