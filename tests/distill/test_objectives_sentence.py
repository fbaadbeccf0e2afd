import math

import pytest
import torch
from torch import Tensor

from distill.objectives.sentence import contrastive_loss, distance_loss

EAST, NORTH, UP = torch.eye(3)


def rows(*vectors: Tensor) -> Tensor:
    return torch.stack(vectors)


def random_rows(seed: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (3 * EAST, 5 * EAST, 0.0),
        (3 * EAST, 5 * NORTH, 2.0),
        (3 * EAST, -5 * EAST, 4.0),
        (EAST + NORTH, EAST, 2 - math.sqrt(2)),  # 45 degrees apart: 2 - 2 cos
    ],
)
def test_distance_depends_on_the_angle_alone(
    student: Tensor, teacher: Tensor, expected: float
) -> None:
    loss = distance_loss(student[None], teacher[None])
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_distance_is_averaged_over_texts() -> None:
    loss = distance_loss(rows(EAST, EAST), rows(EAST, NORTH))
    torch.testing.assert_close(loss, torch.tensor((0 + 2) / 2))


def test_contrastive_loss_matches_a_hand_computed_value() -> None:
    # Each student row is its own teacher's and at right angles to the other's:
    # -log(e^(1/t) / (e^(1/t) + e^0)) = log(1 + e^(-1/t))
    student = rows(2 * EAST, 3 * NORTH)
    for temperature in (1.0, 0.5):
        loss = contrastive_loss(student, rows(EAST, NORTH), temperature=temperature)
        torch.testing.assert_close(loss, torch.tensor(math.log1p(math.exp(-1 / temperature))))


def test_contrastive_loss_picks_the_teacher_row_and_not_the_student_row() -> None:
    # Student rows are alike; teacher row 0 is theirs, row 1 is not: cosines (1, 0) in both rows.
    loss = contrastive_loss(rows(EAST, EAST), rows(EAST, NORTH), temperature=1.0)
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_at_total_confusion_contrastive_loss_is_the_log_of_the_batch() -> None:
    for temperature in (0.05, 1.0):
        loss = contrastive_loss(UP.expand(2, 3), rows(EAST, NORTH), temperature=temperature)
        torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_the_same_text_twice_is_no_mistake() -> None:
    # Rows 0 and 1 have one text: each chooses between itself and row 2; row 2 among all three.
    loss = contrastive_loss(UP.expand(3, 3), rows(EAST, 4 * EAST, NORTH), temperature=0.1)
    torch.testing.assert_close(loss, torch.tensor((2 * math.log(2) + math.log(3)) / 3))


def test_a_batch_of_one_text_has_nothing_to_tell_apart() -> None:
    assert contrastive_loss(UP[None], EAST[None], temperature=0.1).item() == 0


def test_texts_that_are_only_close_are_told_apart() -> None:
    nearly = torch.nn.functional.normalize(EAST + 0.02 * NORTH, dim=0)  # cosine 0.9998
    loss = contrastive_loss(UP.expand(2, 3), rows(EAST, nearly), temperature=1.0)
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


@pytest.mark.parametrize("temperature", [0.0, -0.1])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"must be positive, got {temperature}"):
        contrastive_loss(random_rows(1), random_rows(2), temperature=temperature)


def test_gradients_are_those_of_finite_differences() -> None:
    student, teacher = (random_rows(seed, dtype=torch.float64) for seed in (1, 2))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: distance_loss(s, teacher), student)
    assert torch.autograd.gradcheck(
        lambda s: contrastive_loss(s, teacher, temperature=0.3), student
    )


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = random_rows(1).requires_grad_(), random_rows(2).requires_grad_()
    loss = distance_loss(student, teacher) + contrastive_loss(student, teacher, temperature=0.1)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def test_losses_of_bfloat16_are_computed_in_float32() -> None:
    student, teacher = (random_rows(seed, dtype=torch.bfloat16) for seed in (1, 2))
    for loss, exact in (
        (distance_loss(student, teacher), distance_loss(student.double(), teacher.double())),
        (
            contrastive_loss(student, teacher, temperature=0.05),
            contrastive_loss(student.double(), teacher.double(), temperature=0.05),
        ),
    ):
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
