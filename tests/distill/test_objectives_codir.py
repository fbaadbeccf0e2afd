import math

import pytest
import torch
from torch import Tensor

from distill.objectives.codir import (
    Negatives,
    choose_negatives,
    info_nce_loss,
    log_mean_of,
    nce_loss,
)

EAST, NORTH, UP = torch.eye(3)
TWO = Negatives(torch.tensor([[0, 1]]), torch.tensor([[True, True]]))
CANDIDATES = torch.stack([NORTH, -EAST])


def test_info_nce_matches_a_hand_computed_value() -> None:
    # positive at cosine 1, negatives at 0 and -1
    for t in (1.0, 0.5):
        loss = info_nce_loss(EAST[None], EAST[None], CANDIDATES, TWO, temperature=t)
        assert loss.item() == pytest.approx(math.log(1 + math.exp(-1 / t) + math.exp(-2 / t)))


def test_only_what_counts_is_a_negative() -> None:
    one = Negatives(TWO.index, torch.tensor([[False, True]]))
    loss = info_nce_loss(EAST[None], EAST[None], CANDIDATES, one, temperature=1.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))
    none = Negatives(TWO.index, torch.tensor([[False, False]]))
    assert info_nce_loss(EAST[None], UP[None], CANDIDATES, none, temperature=1.0).item() == 0


def test_nce_matches_the_public_formula_with_its_number_of_texts() -> None:
    # p = e^(cosine / t) / (m N); the number of training texts N cancels out
    t, m, texts, count = 0.5, 1.7, 1000, 2
    p = [math.exp(cosine / t) / (m * texts) for cosine in (1, 0, -1)]
    noise = count / texts
    expected = -math.log(p[0] / (p[0] + noise))
    expected -= sum(math.log(noise / (each + noise)) for each in p[1:])
    loss = nce_loss(
        EAST[None],
        EAST[None],
        CANDIDATES,
        TWO,
        temperature=t,
        log_mean=torch.tensor(m).log(),
    )
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_nce_counts_the_negatives_that_there_are() -> None:
    one = Negatives(TWO.index, torch.tensor([[False, True]]))
    alone = Negatives(torch.tensor([[1]]), torch.tensor([[True]]))
    losses = [
        nce_loss(
            EAST[None], UP[None], CANDIDATES, each, temperature=0.3, log_mean=torch.tensor(0.2)
        )
        for each in (one, alone)
    ]
    torch.testing.assert_close(*losses)


def test_the_mean_similarity_is_that_of_all_positives_and_negatives() -> None:
    one = Negatives(TWO.index, torch.tensor([[False, True]]))
    found = log_mean_of(EAST[None], UP[None], CANDIDATES, one, temperature=0.5)
    assert found.item() == pytest.approx(math.log((1 + math.exp(-2)) / 2))


def chosen(
    languages: list[int],
    candidates: list[int],
    *,
    forbidden: Tensor | None = None,
    count: int,
    same_language: float = 0.5,
) -> list[list[int]]:
    if forbidden is None:
        forbidden = torch.zeros(len(languages), len(candidates), dtype=torch.bool)
    found = choose_negatives(
        torch.tensor(languages),
        torch.tensor(candidates),
        forbidden,
        count=count,
        same_language=same_language,
    )
    return [row[counts].tolist() for row, counts in zip(found.index, found.counts, strict=True)]


@pytest.mark.parametrize(("share", "own"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_the_share_asked_for_comes_from_the_own_language(share: float, own: int) -> None:
    torch.manual_seed(0)
    candidates = [0, 1, 2] * 20
    for text, row in enumerate(chosen([0, 1], candidates, count=8, same_language=share)):
        assert len(set(row)) == 8
        assert sum(candidates[each] == text for each in row) == own


def test_where_a_language_is_short_the_others_fill_up_and_the_other_way_round() -> None:
    torch.manual_seed(0)
    [row] = chosen([0], [0] * 2 + [1] * 30, count=10)
    assert {0, 1} < set(row)
    assert len(row) == 10
    [row] = chosen([0], [0] * 30 + [1] * 2, count=10)
    assert {30, 31} < set(row)
    assert len(row) == 10


def test_fewer_candidates_than_asked_for_all_count_once() -> None:
    [row] = chosen([0], [0, 1, 0, 2], count=10)
    assert sorted(row) == [0, 1, 2, 3]


def test_what_is_forbidden_is_never_drawn() -> None:
    forbidden = torch.zeros(3, 6, dtype=torch.bool)
    forbidden[0, [0, 4]] = forbidden[1] = forbidden[2, 1:] = True
    for seed in range(20):
        torch.manual_seed(seed)
        rows = chosen([0, 1, 1], [0, 1, 0, 1, 0, 1], forbidden=forbidden, count=4)
        assert sorted(rows[0]) == [1, 2, 3, 5]
        assert rows[1] == []
        assert rows[2] == [0]


def test_negatives_are_drawn_by_chance_evenly() -> None:
    torch.manual_seed(0)
    candidates = [0] * 10 + [1] * 10
    drawn = torch.tensor(chosen([0] * 2000, candidates, count=6)).flatten().bincount()
    assert (drawn - 600).abs().max() < 90  # 2000 x 3 / 10 each
