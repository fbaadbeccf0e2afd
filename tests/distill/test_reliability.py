import numpy as np
import pytest

from distill.reliability import (
    calibration_error,
    reliability,
    temperature_of,
    threshold_of,
)


def drawn(temperature: float, *, rows: int = 4000, classes: int = 4) -> tuple[np.ndarray, ...]:
    """Logits that are too large by a factor, and labels drawn from what they should say."""
    random = np.random.default_rng(1)
    true = random.normal(size=(rows, classes)) * 1.5
    chances = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    labels = (chances.cumsum(1) < random.random((rows, 1))).sum(1)
    targets = np.eye(classes, dtype=np.float32)[labels]
    return (true * temperature).astype(np.float32), targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_that_the_labels_were_drawn_at(temperature: float) -> None:
    logits, targets = drawn(temperature)
    assert temperature_of(logits, targets, "single") == pytest.approx(temperature, rel=0.08)


def test_a_head_that_is_too_sure_is_calibrated_on_rows_it_is_not_judged_by() -> None:
    found = reliability(*drawn(3.0), "single")
    assert found.temperature == pytest.approx(3.0, rel=0.08)
    assert found.ece_before > 0.15
    assert found.ece_after < 0.03
    assert found.threshold is None
    assert found.rows == 4000


def test_a_temperature_of_noise_does_not_pass_for_calibration() -> None:
    # Two halves of one row, right and wrong: the temperature of one does not suit the other.
    logits = np.array([[2.0, 0.0], [2.0, 0.0]], dtype=np.float32)
    targets = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    found = reliability(logits, targets, "single")
    # At the temperature of both rows the error would be small.
    assert found.ece_after > 0.5


def test_rows_whose_labels_come_in_turns_are_halved_fairly() -> None:
    # A head that learned nothing: every other row is right. Any fair half says so.
    logits = np.tile(np.array([[2.0, 0.0]], dtype=np.float32), (1000, 1))
    targets = np.zeros((1000, 2), dtype=np.float32)
    targets[::2, 0] = targets[1::2, 1] = 1
    assert reliability(logits, targets, "single").ece_after < 0.1


def test_a_few_rows_that_are_all_right_do_not_make_a_head_sure_of_everything() -> None:
    logits = np.array([[1.0, 0.0], [0.0, 1.0]] * 10, dtype=np.float32)
    targets = np.array([[1.0, 0.0], [0.0, 1.0]] * 10, dtype=np.float32)
    temperature = temperature_of(logits, targets, "single")
    # 20 rows and one of each class that is unsure: (20 + 1) / 22 is what is believed
    assert 1 / (1 + np.exp(-1 / temperature)) == pytest.approx(21 / 22, abs=1e-3)


def test_each_of_several_labels_is_calibrated() -> None:
    random = np.random.default_rng(2)
    true = random.normal(size=(4000, 3))
    targets = (random.random(true.shape) < 1 / (1 + np.exp(-true))).astype(np.float32)
    found = reliability((2 * true).astype(np.float32), targets, "multi")
    assert found.temperature == pytest.approx(2.0, rel=0.08)
    assert found.ece_after < found.ece_before / 2
    assert found.threshold is not None


def test_the_error_is_what_confidence_and_accuracy_differ_by_in_each_bin() -> None:
    # Bins of 1/15: two rows near 0.9, one of them right, and one near 0.6, right.
    found = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]], dtype=np.float32)
    targets = np.array([[1, 0], [1, 0], [1, 0]], dtype=np.float32)
    expected = (2 * abs(0.9 - 0.5) + abs(0.6 - 1.0)) / 3
    assert calibration_error(found, targets, "single") == pytest.approx(expected, abs=1e-6)


def test_the_threshold_is_that_of_the_best_f1() -> None:
    # From the top: 0.9 right, 0.8 right, 0.7 wrong, 0.4 right, 0.1 wrong; three are to be found.
    # F1 of the first n: 2/4, 4/5, 4/6, 6/7, 6/8. The best is n = 4, between 0.4 and 0.1.
    found = np.array([[0.9, 0.7], [0.8, 0.1], [0.4, 0.0]], dtype=np.float32)
    targets = np.array([[1, 0], [1, 0], [1, 0]], dtype=np.float32)
    assert threshold_of(found, targets) == pytest.approx(0.25)


def test_no_threshold_parts_equal_probabilities() -> None:
    found = np.array([[0.5, 0.5], [0.5, 0.2]], dtype=np.float32)
    targets = np.array([[1, 0], [0, 0]], dtype=np.float32)
    assert threshold_of(found, targets) == pytest.approx(0.35)
