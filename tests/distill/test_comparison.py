import pytest

from distill.comparison import mean_scores, retention, spread, summary_of


def test_the_source_is_held_against_the_mean_of_all_others() -> None:
    summary = summary_of({"en": 0.9, "de": 0.8, "sw": 0.4}, "en")
    assert (summary.source, summary.others, summary.worst) == (0.9, pytest.approx(0.6), 0.4)
    assert summary.gap == pytest.approx(0.3)


def test_without_the_source_or_without_others_there_is_no_gap() -> None:
    assert summary_of({"de": 0.8, "sw": 0.4}, "en").gap is None
    alone = summary_of({"en": 0.8}, "en")
    assert (alone.others, alone.worst, alone.gap) == (None, None, None)


def test_retention_above_chance_is_of_what_the_teacher_adds_to_guessing() -> None:
    # The published pair of 60.8 and 66.3 % on three labels.
    assert retention(0.608, 0.663) == pytest.approx(0.917, abs=5e-4)
    assert retention(0.608, 0.663, chance=1 / 3) == pytest.approx(0.833, abs=5e-4)


@pytest.mark.parametrize(
    ("student", "teacher", "chance"), [(None, 0.5, 0.0), (0.5, None, 0.0), (0.2, 0.25, 0.25)]
)
def test_nothing_is_retained_of_what_is_not_there(
    student: float | None, teacher: float | None, chance: float
) -> None:
    assert retention(student, teacher, chance=chance) is None


def test_seeds_give_a_mean_and_a_spread() -> None:
    assert mean_scores([{"en": 0.5, "de": 0.2}, {"en": 0.7, "de": 0.4}]) == {
        "en": pytest.approx(0.6),
        "de": pytest.approx(0.3),
    }
    assert spread([0.5, 0.7, None]) == pytest.approx(0.02**0.5)
    assert spread([0.5]) is None
