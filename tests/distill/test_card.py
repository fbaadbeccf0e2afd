from pathlib import Path

import pytest
from toy_student import describe

from app.runtime.artifact import Manifest
from distill.card import card, summary, tables
from distill.tables.evaluate import EvaluateTable

EVALUATION = {
    "teacher": {
        "topic": {"en": 0.9, "de": 0.8, "sw": 0.4},
        "sts": {"en": 0.7},
    },
    "student": {"topic": {"en": 0.8, "de": 0.6, "sw": 0.3}, "sts": {"en": 0.65}},
    "int8": {"topic": {"en": 0.75, "de": 0.5}},
}


@pytest.fixture
def table() -> EvaluateTable:
    nowhere = Path("none")
    return EvaluateTable(
        model_dir=nowhere,
        encoders={"teacher": "t", "student": "s"},
        teacher="teacher",
        languages=("en", "sw", "de", "zh"),
        source_language="en",
        split="dev",
        topic=nowhere,
        sentiment=nowhere,
        tatoeba=nowhere,
        sts=nowhere,
        max_sts_pairs=100,
        max_tokens=8,
        description="A small student.",
        weaknesses=("Swahili", "long texts"),
        report=nowhere,
    )


def test_a_summary_has_a_row_per_language_and_never_a_mean_alone(table: EvaluateTable) -> None:
    # Means of the others: teacher (0.8 + 0.4) / 2 = 0.6, student 0.45, int8 0.5 (German alone).
    assert summary(EVALUATION, "topic", table) == [
        ("en", "0.900", "0.800", "0.750"),
        ("sw", "0.400", "0.300", ""),
        ("de", "0.800", "0.600", "0.500"),
        ("mean of the others", "0.600", "0.450", "0.500"),
        ("worst of the others", "0.400", "0.300", "0.500"),
        ("retention of teacher", "1.000", "0.750", "0.833"),
    ]


def test_a_benchmark_in_the_source_language_alone_has_no_others(table: EvaluateTable) -> None:
    assert summary(EVALUATION, "sts", table) == [
        ("en", "0.700", "0.650", ""),
        ("mean of the others", "", "", ""),
        ("worst of the others", "", "", ""),
        ("retention of teacher", "", "", ""),
    ]


def test_tables_say_what_a_benchmark_measures(table: EvaluateTable) -> None:
    first, second = tables(EVALUATION, table).split("\n\n### ")
    assert first.splitlines() == [
        "### SIB-200 topic, accuracy; the head saw en only",
        "",
        "| language | teacher | student | int8 |",
        "| --- | --- | --- | --- |",
        "| en | 0.900 | 0.800 | 0.750 |",
        "| sw | 0.400 | 0.300 |  |",
        "| de | 0.800 | 0.600 | 0.500 |",
        "| mean of the others | 0.600 | 0.450 | 0.500 |",
        "| worst of the others | 0.400 | 0.300 | 0.500 |",
        "| retention of teacher | 1.000 | 0.750 | 0.833 |",
    ]
    assert second.startswith("STS-B, Spearman")


def test_a_card_says_what_the_student_is_and_what_it_is_bad_at(
    table: EvaluateTable, toy_model_dir: Path
) -> None:
    manifest = Manifest.model_validate(describe(toy_model_dir))
    lines = card(manifest, EVALUATION, table).splitlines()
    assert lines[:3] == ["# toy 1", "", "A small student."]
    for line in (
        "- Languages: sv en",
        "- Embedding: 4 dimensions; texts up to 8 tokens",
        "- Licence: Apache-2.0",
        "- Teacher: none",
        "- `embed`: always",
        "- `topic`: animals, money",
        "- Swahili",
        "- long texts",
        "- Lowest (int8): de 0.500, en 0.750 (SIB-200 topic, accuracy; the head saw en only)",
        "Split `dev` of each set. Encoders: `teacher`, `student`, `int8`.",
        "| sw | 0.400 | 0.300 |  |",
    ):
        assert line in lines
    [variant] = [line for line in lines if line.startswith("| model.onnx")]
    assert variant.startswith("| model.onnx | fp32 | cpu | 0.0 MB")
    assert (
        lines.index("## What it is weak at") < lines.index("- Swahili") < lines.index("## Scores")
    )


def test_a_card_names_the_three_weakest_languages_of_what_is_served(
    table: EvaluateTable, toy_model_dir: Path
) -> None:
    topic = {"en": 0.9, "sw": 0.5, "de": 0.7, "zh": 0.6}
    evaluation = {"teacher": {"topic": {"en": 0.1}}, "int8": {"topic": topic}}
    lines = card(Manifest.model_validate(describe(toy_model_dir)), evaluation, table).splitlines()
    [lowest] = [line for line in lines if line.startswith("- Lowest")]
    assert lowest.startswith("- Lowest (int8): sw 0.500, zh 0.600, de 0.700 (SIB-200")


def test_retention_is_of_an_encoder_that_is_measured(table: EvaluateTable) -> None:
    values = table.model_dump() | {"teacher": "mbert"}
    with pytest.raises(ValueError, match="'mbert' is not among the encoders: teacher, student"):
        EvaluateTable.model_validate(values)
