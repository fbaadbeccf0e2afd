import pytest

from .figures import Spread, percentile, ratios


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 50) == 50.0
    assert percentile(values, 99) == 99.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 99) == 0.0


def test_a_spread_is_median_and_range() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert Spread.of([]) is None


def test_ratios_pair_rounds_and_leave_out_what_has_no_partner() -> None:
    assert ratios([4.0, 9.0, 5.0], [2.0, 3.0]) == pytest.approx([2.0, 3.0])
    assert ratios([4.0], [0.0]) == []
