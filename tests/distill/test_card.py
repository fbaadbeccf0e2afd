from pathlib import Path

import pytest
from evaluations import TEACHER, a_table, an_evaluation
from toy_student import describe

from app.runtime.artifact import Manifest, load_manifest
from distill.card import card
from distill.report import tables
from distill.speed import Speed, cpu_name, speeds
from distill.suite import Evaluation, System
from distill.tables.evaluate import EvaluateTable


def card_of(
    folder: Path, table: EvaluateTable, evaluation: Evaluation, *, runs: bool = True
) -> list[str]:
    manifest = Manifest.model_validate(describe(folder))
    taken = {1: 1.25, 32: 20.04} if runs else None
    told = [Speed(variant, taken) for variant in manifest.variants]
    return card(manifest, evaluation, table, speeds=told, threads=2).splitlines()


def test_a_card_says_what_the_student_is_and_what_it_is_bad_at(toy_model_dir: Path) -> None:
    evaluation, table = an_evaluation(), a_table()
    lines = card_of(toy_model_dir, table, evaluation)
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
        "Split `dev` of each set. Systems: `teacher`, `student`, `int8`.",
        "| sw | 0.400 | 0.300 ±0.141 |  |",
    ):
        assert line in lines
    assert tables(evaluation, table) in "\n".join(lines) + "\n"
    assert (
        lines.index("## What it is weak at") < lines.index("- Swahili") < lines.index("## Scores")
    )
    assert "## Data" not in lines


def test_a_card_tells_the_speed_of_each_variant_on_this_machine(toy_model_dir: Path) -> None:
    lines = card_of(toy_model_dir, a_table(), an_evaluation())
    [variant] = [line for line in lines if line.startswith("| model.onnx")]
    assert variant == "| model.onnx | fp32 | cpu | 0.0 MB | 1.2 ms | 20.0 ms |"
    assert "| file | precision | target | size | 1 x 16 tokens | 32 x 16 tokens |" in lines
    assert f"Median time of one forward pass, 2 threads, {cpu_name()}." in lines
    [variant] = [
        line
        for line in card_of(toy_model_dir, a_table(), an_evaluation(), runs=False)
        if line.startswith("| model.onnx")
    ]
    assert variant.endswith("| not on this machine | not on this machine |")


def test_speed_is_measured_where_a_variant_runs(toy_model_dir: Path) -> None:
    manifest = load_manifest(toy_model_dir)
    [variant] = manifest.variants
    elsewhere = variant.model_copy(update={"target": "cuda"})
    both = manifest.model_copy(update={"variants": (variant, elsewhere)})
    here, there = speeds(toy_model_dir, both, threads=1)
    assert here.milliseconds is not None
    assert list(here.milliseconds) == [1, 32]
    assert all(0 < taken < 1000 for taken in here.milliseconds.values())
    assert (there.variant, there.milliseconds) == (elsewhere, None)


def test_a_card_names_its_data_and_their_licences(toy_model_dir: Path) -> None:
    data = [{"name": "Tatoeba", "license": "CC BY 2.0 FR", "source": "tatoeba.org"}]
    lines = card_of(toy_model_dir, a_table(data=data), an_evaluation())
    at = lines.index("## Data")
    assert lines[at + 2 : at + 5] == [
        "| data | licence | source |",
        "| --- | --- | --- |",
        "| Tatoeba | CC BY 2.0 FR | tatoeba.org |",
    ]


def test_a_card_names_the_three_weakest_languages_of_what_is_served(toy_model_dir: Path) -> None:
    topic = {"en": 0.9, "sw": 0.5, "de": 0.7, "zh": 0.6}
    systems = System("teacher", (TEACHER,)), System("int8", ({"topic": topic},))
    lines = card_of(toy_model_dir, a_table(), Evaluation(systems, {}))
    [lowest] = [line for line in lines if line.startswith("- Lowest")]
    assert lowest.startswith("- Lowest (int8): sw 0.500, zh 0.600, de 0.700 (SIB-200")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": "mbert"}, "'mbert' is not among those measured: teacher, student"),
        ({"description": ""}, "the card of none needs a description and weaknesses"),
        ({"max_sts_pairs": None}, "sts and max_sts_pairs go together"),
        ({"topic": None, "sts": None, "max_sts_pairs": None}, "nothing to measure on"),
        (
            {"systems": [{"name": "student", "folders": ["f"], "precision": "int8"}]},
            "two systems are called 'student'",
        ),
        ({"systems": [{"name": "peer", "folders": ["f"]}]}, "'peer' needs a precision or an ad"),
    ],
)
def test_a_table_that_cannot_be_measured_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        a_table(**changes)
