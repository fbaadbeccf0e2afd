import pytest
from evaluations import a_table, an_evaluation

from distill.report import retention_rows, summary_json, summary_rows, tables


def test_a_summary_has_a_row_per_language_and_never_a_mean_alone() -> None:
    # Means of the others: teacher (0.8 + 0.4) / 2 = 0.6; student 0.4 and 0.5, mean 0.45, standard
    # deviation 0.0707; int8 0.5 (German alone). Gaps 0.3; 0.4 and 0.3; 0.25. Retention by ratio
    # 0.4 / 0.6 and 0.5 / 0.6; above chance (0.4 - 0.25) / 0.35 and 0.25 / 0.35.
    assert summary_rows(an_evaluation(), "topic", a_table()) == [
        ("en", "0.900", "0.800 ±0.000", "0.750"),
        ("sw", "0.400", "0.300 ±0.141", ""),
        ("de", "0.800", "0.600 ±0.000", "0.500"),
        ("mean of the others", "0.600", "0.450 ±0.071", "0.500"),
        ("worst of the others", "0.400", "0.300 ±0.141", "0.500"),
        ("gap: en - mean", "0.300", "0.350 ±0.071", "0.250"),
        ("retention of teacher", "1.000", "0.750 ±0.118", "0.833"),
        ("retention above chance", "1.000", "0.571 ±0.202", "0.714"),
    ]


def test_a_benchmark_in_the_source_language_alone_has_no_others() -> None:
    rows = summary_rows(an_evaluation(), "sts", a_table())
    assert rows[0] == ("en", "0.700", "0.650 ±0.000", "")
    assert {cell for row in rows[1:] for cell in row[1:]} == {""}


def test_retention_is_told_of_each_language() -> None:
    # Swahili: (0.2 - 0.25) / 0.15 and (0.4 - 0.25) / 0.15, on average a third.
    rows = {row[0]: row[1:] for row in retention_rows(an_evaluation(), "topic", a_table())}
    assert rows["sw"] == ("1.000", "0.333 ±0.943", "")
    assert rows["de"] == ("1.000", "0.636 ±0.000", "0.455")
    assert "zh" not in rows


def test_tables_say_what_a_benchmark_measures() -> None:
    first, second = tables(an_evaluation(), a_table()).split("\n\n### ")
    lines = first.splitlines()
    assert lines[:5] == [
        "### SIB-200 topic, accuracy; the head saw en only",
        "",
        "| language | teacher | student | int8 |",
        "| --- | --- | --- | --- |",
        "| en | 0.900 | 0.800 ±0.000 | 0.750 |",
    ]
    assert lines[-1] == "| retention above chance | 1.000 | 0.571 ±0.202 | 0.714 |"
    assert second.startswith("STS-B, Spearman")


def test_the_summary_for_programs_holds_the_same_figures() -> None:
    found = summary_json(an_evaluation(), a_table())
    student = found["student"]["topic"]
    assert student["others"] == {
        "mean": pytest.approx(0.45),
        "spread": pytest.approx(0.005**0.5),
    }
    assert student["gap"]["mean"] == pytest.approx(0.35)
    assert student["retention"]["mean"] == pytest.approx(0.75)
    assert student["retention_above_chance"]["mean"] == pytest.approx(0.2 / 0.35)
    assert "sts" not in found["int8"]
