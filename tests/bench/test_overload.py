import dataclasses

import pytest

from .overload import Arrivals, search

FINE = Arrivals(
    rate_per_s=0.0,
    goodput_per_s=0.0,
    accepted=100,
    refused=0,
    other=0,
    unsent=0,
    unanswered=0,
    p50_ms=5.0,
    p99_ms=20.0,
    refusal_p50_ms=0.0,
    refusal_p99_ms=0.0,
    lag_p99_ms=1.0,
)


def test_the_search_ends_just_below_the_rate_that_is_too_high() -> None:
    def at(rate: float) -> Arrivals:
        return dataclasses.replace(FINE, rate_per_s=rate, p99_ms=20.0 if rate <= 100 else 80.0)

    knee = search(at, low=0.0, high=320.0)
    assert knee is not None
    assert 90 <= knee.rate_per_s <= 100


def test_whoever_searches_says_how_long_is_too_long() -> None:
    def at(rate: float) -> Arrivals:
        return dataclasses.replace(FINE, rate_per_s=rate, p99_ms=rate)

    for limit_ms in (50, 250):
        found = search(at, low=0.0, high=320.0, p99_ms=limit_ms)
        assert found is not None
        assert 0.8 * limit_ms <= found.rate_per_s < limit_ms


def test_a_range_that_ends_below_the_knee_is_raised() -> None:
    def at(rate: float) -> Arrivals:
        return dataclasses.replace(FINE, rate_per_s=rate, p99_ms=20.0 if rate <= 100 else 80.0)

    knee = search(at, low=0.0, high=60.0)
    assert knee is not None
    assert 95 <= knee.rate_per_s <= 100


def test_no_knee_is_found_where_even_few_wait_too_long() -> None:
    slow = dataclasses.replace(FINE, p99_ms=60.0)
    assert search(lambda rate: dataclasses.replace(slow, rate_per_s=rate), low=0, high=8) is None


@pytest.mark.parametrize("lost", ["refused", "other", "unsent", "unanswered"])
def test_a_rate_at_which_anyone_is_lost_is_too_high(lost: str) -> None:
    assert FINE.kept_up()
    assert not FINE.kept_up(FINE.p99_ms)
    assert not dataclasses.replace(FINE, **{lost: 1}).kept_up()
