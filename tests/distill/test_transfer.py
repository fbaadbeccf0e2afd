import numpy as np
import pytest

from distill.comparison import Summary
from distill.task_kd import verdict
from distill.transfer import change, change_of_mean


def answers(*seeds: str) -> np.ndarray:
    return np.array([[mark == "1" for mark in seed] for seed in seeds])


def test_a_change_is_told_with_the_error_of_rows_and_of_seeds() -> None:
    # Differences by seed: 1, 1, 0, 0 and 1, 0, 0, -1. Means by row 1, .5, 0, -.5: mean .25,
    # variance 1.25 / 3, over 4 rows. Means by seed .5 and 0: variance .125, over 2 seeds.
    found = change(answers("0000", "0101"), answers("1100", "1100"))
    assert found.mean == pytest.approx(0.25)
    assert found.error == pytest.approx((1.25 / 12 + 0.125 / 2) ** 0.5)
    assert found.direction == "same"


@pytest.mark.parametrize(("after", "direction"), [("1111111011", "up"), ("0000000000", "down")])
def test_a_language_moved_where_most_rows_did(after: str, direction: str) -> None:
    before = answers("0001000010" if direction == "up" else "1111101111")
    assert change(before, answers(after)).direction == direction


def test_seeds_that_disagree_hide_a_change() -> None:
    before = answers("0" * 40, "0" * 40)
    together = change(before, answers("1" * 20 + "0" * 20, "1" * 20 + "0" * 20))
    apart = change(before, answers("1" * 40, "0" * 40))
    assert together.mean == apart.mean
    assert (together.direction, apart.direction) == ("up", "same")


def test_languages_of_unequal_length_count_alike_in_their_mean() -> None:
    # German: four rows, none moved. Swahili: two rows, both up in seed 1, one in seed 2; its rows
    # by mean over seeds 1 and .5, variance .125, over 2 rows. Mean of both languages by seed: .5
    # and .25, variance .03125, over 2 seeds.
    before = [answers("1100", "1100"), answers("00", "00")]
    after = [answers("1100", "1100"), answers("11", "10")]
    found = change_of_mean(before, after)
    assert found.mean == pytest.approx(0.375)
    assert found.error == pytest.approx((0.125 / 2 / 4 + 0.03125 / 2) ** 0.5)


@pytest.mark.parametrize(
    ("source", "others", "said"),
    [
        (0.9, 0.6, "helped the other languages: source +0.100, mean of the others +0.100"),
        (0.9, 0.4, "is not better: the source gained, the others did not: source +0.100"),
        (0.7, 0.4, "did not help: source -0.100, mean of the others -0.100"),
    ],
)
def test_task_kd_is_judged_by_the_other_languages(source: float, others: float, said: str) -> None:
    assert said in verdict(Summary(0.8, 0.5, 0.5), Summary(source, others, others))


def test_without_other_languages_nothing_is_said_of_transfer() -> None:
    assert "nothing is known" in verdict(Summary(0.8, None, None), Summary(0.9, None, None))
