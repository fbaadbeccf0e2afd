"""Objectives against values computed by hand, or the obvious slow way."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from distill.objectives.distilbert import direction_loss, masked_language_loss, piece_loss
from distill.objectives.lightmbert import attention_probability_loss, attention_score_loss
from distill.objectives.minilm import attention_transfer_loss, relation_loss
from distill.objectives.pairsupcon import pair_discrimination_loss, pair_features
from distill.objectives.supcl import label_contrast_loss
from distill.objectives.task import divergence, jensen_shannon_loss, soft_target_loss
from distill.objectives.tinybert import every_kth, over_layers, prediction_loss

LN2, LN3 = math.log(2), math.log(3)
EAST, NORTH, UP = torch.eye(3)
REAL = torch.ones(1, 2, dtype=torch.bool)
QUARTERS = torch.tensor([[LN3, 0.0]])
"""Logits of (3/4, 1/4)."""
HALVES = torch.zeros(1, 2)
KL = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
"""Of quarters against halves."""


class Pair(NamedTuple):
    query: Tensor
    key: Tensor


def attending(first_row: float) -> Pair:
    """One head of width 1 over two tokens: scores (first_row, 0; 0, 0)."""
    return Pair(torch.tensor([[[[first_row], [0.0]]]]), torch.tensor([[[[1.0], [0.0]]]]))


def test_soft_target_loss_matches_a_hand_computed_value() -> None:
    assert soft_target_loss(HALVES, QUARTERS, temperature=1.0).item() == pytest.approx(KL)
    # At T = 2 the same distributions come of logits twice as large, and the loss is times 4.
    doubled = soft_target_loss(HALVES, 2 * QUARTERS, temperature=2.0)
    assert doubled.item() == pytest.approx(4 * KL)
    rows = torch.cat([QUARTERS, HALVES])
    assert soft_target_loss(HALVES.repeat(2, 1), rows, temperature=1.0).item() == pytest.approx(
        KL / 2
    )


def test_jensen_shannon_loss_matches_a_hand_computed_value() -> None:
    # The middle of (3/4, 1/4) and (1/2, 1/2) is (5/8, 3/8).
    teacher = 0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)
    student = 0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3)
    expected = (teacher + student) / 2
    assert jensen_shannon_loss(HALVES, QUARTERS, temperature=1.0).item() == pytest.approx(expected)
    # its bound, where the two exclude each other
    sure = torch.tensor([[99.0, -99.0]])
    assert jensen_shannon_loss(-sure, sure, temperature=1.0).item() == pytest.approx(LN2)


def test_a_divergence_is_taken_by_its_name() -> None:
    for kind, loss in (("kl", soft_target_loss), ("js", jensen_shannon_loss)):
        found = divergence(HALVES, QUARTERS, kind=kind, temperature=2.0)
        assert found == loss(HALVES, QUARTERS, temperature=2.0)


def test_prediction_loss_is_the_soft_cross_entropy() -> None:
    # (3/4, 1/4) against (1/2, 1/2) costs ln 2; against itself, its entropy
    assert prediction_loss(HALVES, QUARTERS, temperature=1.0).item() == pytest.approx(LN2)
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert prediction_loss(QUARTERS, QUARTERS, temperature=1.0).item() == pytest.approx(entropy)
    halved = prediction_loss(QUARTERS, 2 * QUARTERS, temperature=2.0)
    assert halved.item() == pytest.approx(
        0.75 * math.log(1 + 3**-0.5) + 0.25 * math.log(1 + 3**0.5)
    )
    assert prediction_loss(HALVES[:0], HALVES[:0], temperature=1.0).item() == 0


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [(3, 6, (2, 4, 6)), (2, 2, (1, 2)), (1, 5, (5,)), (4, 12, (3, 6, 9, 12))],
)
def test_student_layers_are_spread_evenly(
    student: int, teacher: int, expected: tuple[int, ...]
) -> None:
    assert every_kth(student, teacher) == expected


def test_layers_that_cannot_be_spread_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="5 layers cannot be spread evenly over the teacher's 12"):
        every_kth(5, 12)


def test_layers_are_averaged() -> None:
    assert over_layers([torch.tensor(1.0), torch.tensor(4.0)]).item() == 2.5


def test_attention_probabilities_match_a_hand_computed_value() -> None:
    # Row 1: (3/4, 1/4) against (1/2, 1/2); row 2 agrees. Four pairs.
    loss = attention_probability_loss(attending(LN3), attending(0.0), REAL)
    assert loss.item() == pytest.approx((0.25**2 + 0.25**2) / 4)


def test_attention_transfer_matches_a_hand_computed_value() -> None:
    loss = attention_transfer_loss(attending(0.0), attending(LN3), REAL)
    assert loss.item() == pytest.approx(KL / 2)  # over two rows, one of which agrees


def test_scores_of_heads_of_other_width_are_those_of_the_direct_computation() -> None:
    torch.manual_seed(0)
    narrow = Pair(*torch.randn(2, 2, 3, 4, 5, dtype=torch.float64))
    wide = Pair(*torch.randn(2, 2, 3, 4, 7, dtype=torch.float64))
    mask = torch.ones(2, 4, dtype=torch.bool)
    scores = [side.query @ side.key.mT / math.sqrt(side.query.shape[-1]) for side in (narrow, wide)]
    expected = (scores[0] - scores[1]).square().mean()
    for one, other in ((narrow, wide), (wide, narrow)):
        torch.testing.assert_close(attention_score_loss(one, other, mask), expected)


def test_relations_match_a_hand_computed_value() -> None:
    # One head of width 1: scores of the first row (x^2, 0).
    def values(x: float) -> Tensor:
        return torch.tensor([[[[x], [0.0]]]])

    loss = relation_loss(values(0.0), values(math.sqrt(LN3)), REAL, heads=None)
    assert loss.item() == pytest.approx(KL / 2)


def test_relations_of_new_heads_are_those_of_the_concatenation() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 3, 4, 4)  # three heads of 4
    teacher = torch.randn(2, 4, 4, 6)  # four heads of 6
    mask = torch.ones(2, 4, dtype=torch.bool)

    def relations(projected: Tensor) -> Tensor:
        text = torch.cat(list(projected.unbind(1)), dim=-1)  # (B, T, H)
        parts = torch.stack(text.chunk(2, dim=-1), dim=1)
        return (parts @ parts.mT / math.sqrt(parts.shape[-1])).softmax(-1)

    one, other = relations(student), relations(teacher)
    expected = (other * (other / one).log()).sum(-1).mean()
    torch.testing.assert_close(relation_loss(student, teacher, mask, heads=2), expected)


def test_pieces_are_compared_where_asked_and_nowhere_else() -> None:
    student, teacher = torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)
    teacher[0, 0] = QUARTERS[0]
    teacher[0, 2] = torch.tensor([50.0, 0.0])
    positions = torch.tensor([[True, True, False]])
    loss = piece_loss(student, teacher, positions, temperature=1.0)
    assert loss.item() == pytest.approx(KL / 2)


def test_a_batch_that_asks_for_no_piece_costs_nothing() -> None:
    logits = torch.randn(1, 3, 2, requires_grad=True)
    nowhere = torch.zeros(1, 3, dtype=torch.bool)
    loss = piece_loss(logits, logits, nowhere, temperature=1.0)
    loss = loss + masked_language_loss(logits, torch.full((1, 3), -100))
    assert loss.item() == 0
    loss.backward()
    assert not logits.grad.any()


def test_masked_pieces_match_a_hand_computed_value() -> None:
    logits = torch.stack([QUARTERS[0], HALVES[0], torch.tensor([9.0, -9.0])])[None]
    labels = torch.tensor([[1, 0, -100]])
    loss = masked_language_loss(logits, labels)
    assert loss.item() == pytest.approx((math.log(4) + LN2) / 2)


def test_direction_matches_a_hand_computed_value() -> None:
    student = torch.stack([EAST, 3 * EAST, EAST, UP])[None]
    teacher = torch.stack([5 * EAST, NORTH, -EAST, NORTH])[None]
    mask = torch.tensor([[True, True, True, False]])
    assert direction_loss(student, teacher, mask).item() == pytest.approx((0 + 1 + 2) / 3)


def test_label_contrast_matches_a_hand_computed_value() -> None:
    # Two texts of label 0 at EAST, one of label 1 at NORTH, one view: for either of the first
    # two, e^(1/t) / (e^(1/t) + e^0); the third has no peer and does not count.
    views = torch.stack([2 * EAST, EAST, NORTH])[None]
    labels = torch.tensor([0, 0, 1])
    for t in (1.0, 0.5):
        loss = label_contrast_loss(views, labels, temperature=t)
        assert loss.item() == pytest.approx(math.log1p(math.exp(-1 / t)), rel=1e-6)


def test_the_other_view_of_a_text_is_its_peer() -> None:
    views = torch.stack([torch.stack([EAST, NORTH]), torch.stack([EAST, NORTH])])
    loss = label_contrast_loss(views, torch.tensor([0, 1]), temperature=1.0)
    # one positive at cosine 1, two strangers at 0
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-1)))


def test_positives_are_averaged_outside_the_logarithm() -> None:
    views = torch.stack([EAST, EAST, NORTH])[None]
    loss = label_contrast_loss(views, torch.zeros(3), temperature=1.0)
    both = math.log(math.e + 1)
    expected = (2 * (both - 0.5) + LN2) / 3  # the third: two positives, equally far
    assert loss.item() == pytest.approx(expected)


def test_labels_of_which_none_has_a_peer_are_refused() -> None:
    with pytest.raises(ValueError, match="none has a positive"):
        label_contrast_loss(torch.randn(1, 2, 3), torch.tensor([0, 1]), temperature=1.0)


def test_pair_discrimination_matches_a_hand_computed_value() -> None:
    # Pairs (EAST, EAST) and (NORTH, NORTH): both strangers at cosine 0, so both weigh 1.
    first = torch.stack([EAST, NORTH])
    loss = pair_discrimination_loss(
        first, 2 * first, torch.ones(2, dtype=torch.bool), temperature=1
    )
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-1)))


def test_close_strangers_count_more_and_only_entailed_pairs_are_anchors() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 4, dtype=torch.float64)
    entailed, t = torch.tensor([True, False, True]), 0.4
    unit = torch.nn.functional.normalize(torch.cat([first, second]), dim=-1)
    expected = []
    for i in (0, 2, 3, 5):
        near = [math.exp(unit[i] @ unit[k] / t) for k in range(6) if k % 3 != i % 3]
        mean = sum(near) / len(near)
        partner = math.exp(unit[i] @ unit[(i + 3) % 6] / t)
        hard = sum(each / mean * each for each in near)
        expected.append(-math.log(partner / (partner + hard)))
    loss = pair_discrimination_loss(first, second, entailed, temperature=t)
    assert loss.item() == pytest.approx(sum(expected) / 4)


def test_one_pair_alone_or_none_entailed_has_nothing_to_tell_apart() -> None:
    for entailed in ([True], [False, False]):
        rows = torch.randn(len(entailed), 3, requires_grad=True)
        loss = pair_discrimination_loss(rows, rows + 1, torch.tensor(entailed), temperature=0.1)
        loss.backward()
        assert loss.item() == 0
        assert rows.grad.isfinite().all()


def test_features_of_a_pair_do_not_depend_on_its_order_or_on_length() -> None:
    features = pair_features(3 * EAST[None], NORTH[None])
    assert torch.equal(features, torch.tensor([[1.0, 1, 0, 0, 0, 0]]))
    assert torch.equal(features, pair_features(NORTH[None], EAST[None]))
