"""Task distillation: the student's class probabilities move towards the teacher's.

Hinton et al. 2015, arXiv:1503.02531, and the Jensen-Shannon divergence of SSLD (Cui et al. 2021,
arXiv:2103.05959), which is bounded and so forgives a teacher that is sure and wrong.

Shapes: B texts (or tokens), C classes (or pieces). No loss lets gradient reach the teacher.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from distill.objectives import at_least_float32, full_precision


@full_precision
def soft_target_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float
) -> Tensor:
    """T^2 KL(teacher || student) of softened classes, in nats, averaged over rows.

    Hinton et al., Eq. 1 for the softening; the factor T^2 (end of their section 2) keeps the
    gradient's size, so that T can change without the weight. 0 at agreement.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: T > 0.

    Raises:
        ValueError: temperature is not positive.
    """
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    return _kl(teacher, student) * temperature**2


@full_precision
def jensen_shannon_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float
) -> Tensor:
    """T^2 times the Jensen-Shannon divergence of softened classes, averaged over rows.

    Half of KL(teacher || M) plus half of KL(student || M), M being the mean of both: in
    [0, ln 2] before the factor, and 0 at agreement. Deviation: SSLD has no temperature (T = 1).

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: T > 0.

    Raises:
        ValueError: temperature is not positive.
    """
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    middle = torch.logaddexp(student, teacher) - math.log(2)
    return (_kl(teacher, middle) + _kl(student, middle)) / 2 * temperature**2


def divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    kind: Literal["kl", "js"],
    temperature: float,
) -> Tensor:
    """`soft_target_loss` or `jensen_shannon_loss`, by name."""
    loss = soft_target_loss if kind == "kl" else jensen_shannon_loss
    return loss(student_logits, teacher_logits, temperature=temperature)


def _softened(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log probabilities of both, (B, C)."""
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student = (at_least_float32(student_logits) / temperature).log_softmax(-1)
    return student, (at_least_float32(teacher_logits.detach()) / temperature).log_softmax(-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()
