import pytest

from .closed import Cell
from .overload import Overload
from .processes import Memory
from .report import absolutes, heading, promises
from .results import Results
from .systems import FP32, INFINITY, INT8
from .test_overload import FINE


def cell(requests_per_s: float, p99_ms: float = 10.0) -> Cell:
    return Cell(requests_per_s, requests_per_s, 5.0, 8.0, p99_ms, 300.0, 0)


@pytest.fixture
def found() -> Results:
    results = Results("2 CPUs", rounds=3, seconds=4.0)
    results.cells[FP32]["c16"] = [cell(180, 40), cell(300, 40), cell(240, 40)]
    results.cells[INFINITY]["c16"] = [cell(100, 100), cell(150, 50), cell(100, 100)]
    results.cells[INT8]["c16"] = [cell(180), cell(300), cell(240)]
    results.limits[FP32] = [300.0, 400.0, 300.0]
    results.limit_shapes[FP32] = "2x1x16"
    results.limit_cpu_s_per_million_tokens[FP32] = 200.0
    results.starts_s[FP32], results.starts_s[INFINITY] = [1.0], [30.0]
    results.memory[FP32] = Memory(150_000_000, 200_000_000)
    results.memory[INFINITY] = Memory(1_500_000_000, 1_600_000_000)
    return results


def line(table: str, start: str) -> str:
    [row] = [row for row in table.splitlines() if row.startswith(start)]
    return row


def test_a_promise_shows_bars_median_range_and_verdict(found: Results) -> None:
    row = line(promises(found), "requests/s over Infinity, fp32, c16").split()
    assert row[-8:] == ["1.7", ">=", "2", "2", "1.8", "to", "2.4", "goal"]


def test_a_ratio_below_the_bar_is_missed_and_one_between_the_bars_is_a_must(
    found: Results,
) -> None:
    table = promises(found)
    assert line(table, "our int8 over its fp32, c16").endswith("missed")
    assert line(table, "share of the ONNX Runtime limit, fp32, c16").endswith("must")


def test_where_less_is_better_the_verdict_turns_round(found: Results) -> None:
    table = promises(found)
    assert line(table, "p99 over Infinity's, fp32, c16").endswith("goal")
    assert line(table, "cold start over Infinity's").endswith("goal")
    found.memory[FP32] = Memory(400_000_000, 400_000_000)
    assert line(promises(found), "resident memory").endswith("missed")


def test_what_was_not_measured_says_so(found: Results) -> None:
    assert line(promises(found), "requests/s over Infinity, fp32, c64").endswith("not measured")


def test_overload_is_judged_by_the_goodput_that_is_kept(found: Results) -> None:
    at = {"goodput_per_s": 95.0, "refused": 50, "refusal_p50_ms": 4.0}
    beyond = Overload(120.0, None, FINE).beyond.__class__(**{**vars(FINE), **at})
    knee = FINE.__class__(**{**vars(FINE), "goodput_per_s": 100.0})
    found.overload[FP32] = [Overload(120.0, knee, beyond)]
    table = promises(found)
    assert line(table, "goodput at 3x over goodput at the knee, ours fp32").endswith("must")
    assert line(table, "ms to a 429 at 3x capacity (median), ours fp32").endswith("goal")


def test_absolute_figures_name_system_cell_and_limit(found: Results) -> None:
    table = absolutes(found)
    assert "240 (180 to 300)" in line(table, f"1 text, c = 16     {FP32}")
    assert "2x1x16" in line(table, f"limit, {FP32}: 300 texts/s (300 to 400)")
    assert "150 MB after load" in line(table, f"{FP32}: first 200 after 1.0 s")


def test_the_heading_tells_how_busy_others_kept_the_machine(found: Results) -> None:
    found.foreign_cpus = [0.1, 0.9, 0.2]
    assert "median 0.20, most 0.90" in heading(found)
