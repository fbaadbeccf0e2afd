"""What must hold of every objective: each is asked the same questions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pytest
import torch
from torch import Tensor

from distill.objectives.codir import Negatives, info_nce_loss, nce_loss
from distill.objectives.distilbert import direction_loss, masked_language_loss, piece_loss
from distill.objectives.lightmbert import (
    attention_probability_loss,
    attention_score_loss,
    hidden_state_loss,
)
from distill.objectives.minilm import attention_transfer_loss, relation_loss
from distill.objectives.pairsupcon import pair_discrimination_loss
from distill.objectives.sentence import contrastive_loss, distance_loss
from distill.objectives.supcl import label_contrast_loss
from distill.objectives.task import jensen_shannon_loss, soft_target_loss
from distill.objectives.tinybert import prediction_loss
from distill.regularizers import r_drop_loss

B, T, X = 4, 5, 12
LENGTHS = torch.tensor([5, 3, 1, 4])
MASK = torch.arange(T) < LENGTHS[:, None]
LABELS = torch.full((B, T), -100)
LABELS[0, 1], LABELS[0, 3], LABELS[1, 2], LABELS[3, 0] = 7, 0, 11, 3
GROUPS = torch.tensor([0, 1, 0, 1])
ENTAILED = torch.tensor([True, False, True, True])
ALL_OTHERS = Negatives(
    torch.tensor([[j for j in range(B) if j != i] for i in range(B)]),
    torch.ones(B, B - 1, dtype=torch.bool),
)


class Pair(NamedTuple):
    """Queries and keys of three heads."""

    query: Tensor
    key: Tensor


def heads(hidden: Tensor, *, count: int = 3) -> Tensor:
    """(B, T, X) -> (B, A, T, X / A)."""
    return hidden.unflatten(-1, (count, -1)).transpose(1, 2)


def pair(hidden: Tensor) -> Pair:
    return Pair(*heads(hidden).chunk(2, dim=-1))


@dataclass(frozen=True)
class Case:
    """A loss of two sides, (B, T, X) each and a mask, or (B, X) each."""

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    by_token: bool = True
    at_agreement: Literal["zero", "least", "any"] = "zero"


TOKENS = {
    "scores": Case(lambda s, t, m: attention_score_loss(pair(s), pair(t), m)),
    "probabilities": Case(lambda s, t, m: attention_probability_loss(pair(s), pair(t), m)),
    "hidden": Case(hidden_state_loss),
    "minilm attention": Case(lambda s, t, m: attention_transfer_loss(pair(s), pair(t), m)),
    "minilm values": Case(lambda s, t, m: relation_loss(heads(s), heads(t), m, heads=None)),
    "minilm2": Case(lambda s, t, m: relation_loss(heads(s), heads(t), m, heads=4)),
    "pieces": Case(lambda s, t, m: piece_loss(s, t, m, temperature=2.0)),
    "direction": Case(direction_loss),
    "prediction": Case(
        lambda s, t, m: prediction_loss(s[m], t[m], temperature=1.5), at_agreement="least"
    ),
    "masked language": Case(
        lambda s, t, m: masked_language_loss(s, labels_for(m)),
        at_agreement="any",  # there is no teacher
    ),
}
TEXTS = {
    "kl": Case(lambda s, t, _: soft_target_loss(s, t, temperature=2.0), by_token=False),
    "js": Case(lambda s, t, _: jensen_shannon_loss(s, t, temperature=2.0), by_token=False),
    "distance": Case(lambda s, t, _: distance_loss(s, t), by_token=False),
    "contrastive": Case(
        lambda s, t, _: contrastive_loss(s, t, temperature=0.3),
        by_token=False,
        at_agreement="any",  # it asks for more than to agree: to be far from the others
    ),
}
ALL = TOKENS | TEXTS
SELF = {
    "supcl": lambda s, t: label_contrast_loss(torch.stack([s, t]), GROUPS, temperature=0.3),
    "pairsupcon": lambda s, t: pair_discrimination_loss(s, t, ENTAILED, temperature=0.3),
    "infonce": lambda s, t: info_nce_loss(unit(t), unit(s), unit(s), ALL_OTHERS, temperature=0.3),
    "nce": lambda s, t: nce_loss(
        unit(t), unit(s), unit(s), ALL_OTHERS, temperature=0.3, log_mean=torch.tensor(0.5)
    ),
    "r_drop": r_drop_loss,
}
"""Losses that send gradient to both sides."""


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.float() if rows.itemsize < 4 else rows, dim=-1)


def labels_for(mask: Tensor) -> Tensor:
    """LABELS, in the width and order of a mask derived from MASK."""
    rows = [int((length == LENGTHS).nonzero()) for length in mask.sum(1)]
    wider = torch.nn.functional.pad(LABELS, (0, mask.shape[1] - T), value=-100)
    return wider[rows]


def sides(case: Case, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    shape = (2, B, T, X) if case.by_token else (2, B, X)
    both = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    student, teacher = both.to(dtype)
    return student, teacher


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_a_loss_is_least_at_agreement(case: Case) -> None:
    student, teacher = sides(case)
    assert case.loss(student, teacher, MASK) > 1e-3
    least = case.loss(teacher, teacher, MASK)
    if case.at_agreement == "zero":
        assert abs(least.item()) < 1e-12
    if case.at_agreement != "any":
        for seed in range(20):
            noise = torch.randn(teacher.shape, generator=torch.Generator().manual_seed(seed))
            assert case.loss(teacher + 0.1 * noise, teacher, MASK) > least


@pytest.mark.parametrize("case", TOKENS.values(), ids=TOKENS)
def test_what_stands_on_padding_does_not_matter(case: Case) -> None:
    student, teacher = sides(case)
    before = case.loss(student, teacher, MASK)
    student[~MASK], teacher[~MASK] = 1e3, -1e4
    torch.testing.assert_close(case.loss(student, teacher, MASK), before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", TOKENS.values(), ids=TOKENS)
def test_more_padding_does_not_matter(case: Case) -> None:
    student, teacher = sides(case)
    wider = [torch.nn.functional.pad(side, (0, 0, 0, 3), value=7.0) for side in (student, teacher)]
    mask = torch.nn.functional.pad(MASK, (0, 3))
    torch.testing.assert_close(
        case.loss(*wider, mask), case.loss(student, teacher, MASK), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_the_order_of_texts_does_not_matter(case: Case) -> None:
    student, teacher = sides(case)
    order = torch.tensor([2, 0, 3, 1])
    moved = case.loss(student[order], teacher[order], MASK[order])
    torch.testing.assert_close(moved, case.loss(student, teacher, MASK), rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_under_autocast_a_loss_is_as_exact_as_float32(case: Case) -> None:
    student, teacher = sides(case, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = case.loss(student, teacher, MASK)
    exact = case.loss(student.double(), teacher.double(), MASK)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    student, teacher = sides(case)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: case.loss(s, teacher, MASK), student)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_no_gradient_reaches_the_teacher_or_the_padding(case: Case) -> None:
    student, teacher = (side.requires_grad_() for side in sides(case))
    case.loss(student, teacher, MASK).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0
    if case.by_token:
        assert not student.grad[~MASK].any()


@pytest.mark.parametrize("loss", SELF.values(), ids=SELF)
def test_gradients_of_both_sides_are_those_of_finite_differences(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    both = [side.requires_grad_() for side in sides(TEXTS["kl"])]
    assert torch.autograd.gradcheck(loss, both)
    loss(*both).backward()
    assert all(side.grad is not None and side.grad.abs().sum() > 0 for side in both)


@pytest.mark.parametrize("loss", SELF.values(), ids=SELF)
def test_under_autocast_losses_of_both_sides_are_as_exact_as_float32(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    student, teacher = sides(TEXTS["kl"], dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(student, teacher)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(loss(student.double(), teacher.double()).item(), rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        lambda t: soft_target_loss(torch.zeros(2, 2), torch.zeros(2, 2), temperature=t),
        lambda t: jensen_shannon_loss(torch.zeros(2, 2), torch.zeros(2, 2), temperature=t),
        lambda t: prediction_loss(torch.zeros(2, 2), torch.zeros(2, 2), temperature=t),
        lambda t: label_contrast_loss(torch.ones(2, 2, 2), torch.zeros(2), temperature=t),
        lambda t: pair_discrimination_loss(
            torch.ones(2, 2), torch.ones(2, 2), torch.ones(2), temperature=t
        ),
        lambda t: info_nce_loss(*[torch.ones(B, 2)] * 3, ALL_OTHERS, temperature=t),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(
    loss: Callable[[float], Tensor], temperature: float
) -> None:
    with pytest.raises(ValueError, match=f"must be positive, got {temperature}"):
        loss(temperature)
