"""TinyBERT: every layer of the student answers to one of the teacher's, evenly spaced.

Jiao et al. 2020, arXiv:1909.10351: attention scores (Eq. 7), hidden states (Eq. 8), embeddings
(Eq. 9) and predictions (Eq. 10). The first three are LightMBERT's losses, layer by layer.
Deviations: layers are averaged rather than summed, as tokens and pairs are, so that weights do
not depend on depth; the public code averages over padding and, in Eq. 10, over classes.

Shapes: N rows, C classes. No loss lets gradient reach the teacher.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.objectives import at_least_float32, full_precision


def every_kth(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """The teacher layer of each student layer, counted from 1: m -> m N / M.

    Raises:
        ValueError: M does not divide N.
    """
    if teacher_layers % student_layers:
        raise ValueError(
            f"{student_layers} layers cannot be spread evenly over the teacher's {teacher_layers}"
        )
    step = teacher_layers // student_layers
    return tuple(range(step, teacher_layers + 1, step))


def over_layers(losses: Sequence[Tensor]) -> Tensor:
    """Mean of the layers' losses."""
    return torch.stack(list(losses)).mean()


@full_precision
def prediction_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float
) -> Tensor:
    """Soft cross-entropy in nats, averaged over rows (Eq. 10).

    The teacher's softened classes against the student's, both at the temperature; no T^2. At
    agreement it is the teacher's entropy, which is its minimum. 0 if there are no rows.

    Args:
        student_logits: (N, C).
        teacher_logits: (N, C).
        temperature: positive.

    Raises:
        ValueError: temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student = (at_least_float32(student_logits) / temperature).log_softmax(-1)
    teacher = (at_least_float32(teacher_logits.detach()) / temperature).softmax(-1)
    return -(teacher * student).sum() / max(len(student), 1)
