import pytest

from app.forecast import LEAST_OVERHEAD_S, Forecast, Run


def test_a_law_is_found_in_runs_that_follow_one() -> None:
    shapes = [(8, 1), (8, 64), (64, 1), (64, 16), (256, 1), (256, 4)]
    runs = [Run(longest, texts, 0.002 + longest * texts * 1e-5) for longest, texts in shapes]
    forecast = Forecast.fitted(runs)
    assert forecast.overhead_s == pytest.approx(0.002)
    assert forecast.seconds_per_token == pytest.approx(1e-5)
    assert forecast.seconds(100, 10) == pytest.approx(0.012)
    assert forecast.padding_worth_a_run == pytest.approx(200)


def test_too_few_shapes_give_a_rate_and_the_least_overhead() -> None:
    forecast = Forecast.fitted([Run(8, 1, 0.004)])
    assert forecast.overhead_s == LEAST_OVERHEAD_S
    assert forecast.seconds(8, 1) == pytest.approx(0.004, rel=0.1)


def test_a_shape_that_is_slower_than_the_law_is_learned_and_its_like_alone() -> None:
    forecast = Forecast(seconds_per_token=1e-4, overhead_s=0.001)
    for _ in range(100):
        forecast.learn(Run(300, 2, 0.2))
        forecast.learn(Run(10, 2, 0.003))
    assert forecast.seconds(300, 2) == pytest.approx(0.2, rel=0.01)
    assert forecast.seconds(500, 3) == pytest.approx(0.2 / 0.061 * 0.151, rel=0.01)
    assert forecast.seconds(10, 2) == pytest.approx(0.003, rel=0.01)
    assert 1 < forecast.drift < 0.2 / 0.061


def test_a_shape_never_seen_follows_the_machine() -> None:
    forecast = Forecast(seconds_per_token=1e-4, overhead_s=0.001)
    for _ in range(100):
        forecast.learn(Run(10, 2, 0.009))
    assert forecast.seconds(300, 7) == pytest.approx(3 * (0.001 + 0.21), rel=0.01)


def test_one_run_that_was_preempted_spoils_little() -> None:
    forecast = Forecast(seconds_per_token=1e-4, overhead_s=0.001)
    for _ in range(50):
        forecast.learn(Run(10, 2, 0.003))
    forecast.learn(Run(10, 2, 30.0))
    assert forecast.seconds(10, 2) < 1.11 * 0.003


def test_what_another_student_takes_of_the_cpus_is_learned_and_forgotten_within_twenty_runs() -> (
    None
):
    forecast = Forecast(seconds_per_token=1e-4, overhead_s=0.001)
    for seconds in (0.003, 0.006, 0.003):  # alone, beside another one under load, alone again
        for _ in range(10):
            forecast.learn(Run(10, 2, seconds))
        assert forecast.seconds(10, 2) == pytest.approx(seconds, rel=0.4)
        for _ in range(10):
            forecast.learn(Run(10, 2, seconds))
        assert forecast.seconds(10, 2) == pytest.approx(seconds, rel=0.15)
