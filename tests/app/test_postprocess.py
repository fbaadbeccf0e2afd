import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.postprocess import embeddings, rank, shrink, similarities
from app.runtime.artifact import ClassificationTask
from app.runtime.outputs import probabilities, unit_vectors

THREE = ClassificationTask(labels=("a", "b", "c"))
SEVERAL = ClassificationTask(labels=("a", "b", "c"), problem_type="multi", threshold=0.5)


def logits(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_softmax_matches_hand_computed_values() -> None:
    # logits ln 1, ln 2, ln 5 against a sum of 8
    found = probabilities(logits([0, math.log(2), math.log(5)]), THREE)
    np.testing.assert_allclose(found, [[1 / 8, 2 / 8, 5 / 8]], rtol=1e-6)
    assert found.dtype == np.float32


def test_temperature_divides_before_the_softmax() -> None:
    warm = THREE.model_copy(update={"temperature": 2.0})
    found = probabilities(logits([0, math.log(4), math.log(25)]), warm)
    np.testing.assert_allclose(found, [[1 / 8, 2 / 8, 5 / 8]], rtol=1e-6)


def test_extreme_logits_stay_probabilities() -> None:
    for task in (THREE, SEVERAL):
        found = probabilities(logits([-1e4, 0, 1e4]), task)
        np.testing.assert_allclose(found[0, [0, 2]], [0, 1], atol=1e-6)
        assert np.isfinite(found).all()


def test_sigmoid_matches_its_definition() -> None:
    found = probabilities(logits([-2, 0, 3]), SEVERAL)
    np.testing.assert_allclose(found, 1 / (1 + np.exp([[2.0, 0.0, -3.0]])), rtol=1e-6)


def test_a_row_of_zeros_stays_zero() -> None:
    assert unit_vectors(np.zeros((1, 3), dtype=np.float32), 3).tolist() == [[0, 0, 0]]


def test_embeddings_are_cut_and_then_scaled() -> None:
    pooled = logits([3, 4, 12])
    np.testing.assert_allclose(embeddings(pooled, dimensions=2, normalize=True), [[0.6, 0.8]])
    np.testing.assert_allclose(embeddings(pooled, dimensions=2, normalize=False), [[3, 4]])


def test_int8_scales_each_vector_by_its_largest_component() -> None:
    assert shrink(logits([0.5, -1, 0.25], [0.01, 0, 0.02]), "int8").tolist() == [
        [64, -127, 32],
        [64, 0, 127],
    ]


@given(seed=st.integers(0, 10_000), dimensions=st.integers(8, 400))
def test_int8_keeps_directions(seed: int, dimensions: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(2, dimensions)).astype(np.float32)
    small = shrink(vectors, "int8").astype(np.float32)
    exact, rounded = unit_vectors(vectors, dimensions), unit_vectors(small, dimensions)
    assert np.sum(exact * rounded, axis=1).min() > 0.999


def test_binary_packs_the_first_dimension_into_the_highest_bit() -> None:
    vector = logits([1, -1, 1, 0, -1, -1, -1, 0.5, 0.1])
    assert shrink(vector, "binary").tolist() == [[0b10100001, 0b10000000]]


def test_labels_are_ranked_best_first_and_ties_keep_their_order() -> None:
    ranking = rank(logits([1, 2, 2]), THREE, output="logits", top_k=None, threshold=None)
    assert [label for label, _ in next(iter(ranking))] == ["b", "c", "a"]


def test_a_threshold_that_is_reached_exactly_counts() -> None:
    ranking = rank(logits([0, -1, 1]), SEVERAL, output="probabilities", top_k=None, threshold=0.5)
    assert [label for label, _ in next(iter(ranking))] == ["c", "a"]


@pytest.mark.parametrize(("top_k", "given"), [(1, 1), (2, 2), (9, 3), (None, 3)])
def test_top_k_counts_after_the_threshold(top_k: int | None, given: int) -> None:
    ranking = rank(logits([1, 2, 3]), SEVERAL, output="probabilities", top_k=top_k, threshold=None)
    assert len(next(iter(ranking))) == given


def test_the_best_score_is_told_even_if_it_does_not_pass() -> None:
    ranking = rank(logits([-3, -2, -1]), SEVERAL, output="logits", top_k=None, threshold=None)
    assert list(ranking) == [[]]
    assert ranking.best_scores().tolist() == [-1]


@pytest.mark.parametrize("task", [THREE, SEVERAL])
def test_the_function_asked_for_is_applied_whichever_is_the_tasks_own(
    task: ClassificationTask,
) -> None:
    given = logits([0, math.log(2), math.log(5)])
    for output, expected in (
        ("softmax", [[1 / 8, 2 / 8, 5 / 8]]),
        ("sigmoid", [[1 / 2, 2 / 3, 5 / 6]]),
    ):
        ranking = rank(given, task, output=output, top_k=None, threshold=0)
        np.testing.assert_allclose(ranking.scores, expected, rtol=1e-6)
        assert ranking.order.tolist() == [[2, 1, 0]]


def test_similarities_are_cosines_with_the_last_vector() -> None:
    vectors = unit_vectors(logits([1, 0], [1, 1], [0, 2], [0, 1]), 2)
    np.testing.assert_allclose(similarities(vectors), [0, math.sqrt(0.5), 1], rtol=1e-6)
