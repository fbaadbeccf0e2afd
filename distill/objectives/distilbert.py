"""DistilBERT: the masked-language head's answers, the masked pieces, and where hidden states point.

Sanh et al. 2019, arXiv:1910.01108, section 2: a triple loss of distillation, masked language
modelling and cosine distance. Its equations are not numbered. The distillation term is
`soft_target_loss` of the logits at the positions asked for, so that all terms are means.

Shapes: B texts, T tokens, H hidden width, V pieces. No loss lets gradient reach the teacher.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.masking import NOT_ASKED
from distill.objectives import at_least_float32, full_precision
from distill.objectives.task import soft_target_loss


def piece_loss(
    student_logits: Tensor, teacher_logits: Tensor, positions: Tensor, *, temperature: float
) -> Tensor:
    """T^2 KL(teacher || student) over pieces, averaged over positions; 0 if there are none.

    Args:
        student_logits: (B, T, V).
        teacher_logits: (B, T, V).
        positions: (B, T) bool; the public code compares real tokens or masked ones.
        temperature: T > 0.

    Raises:
        ValueError: temperature is not positive.
    """
    # Picked before they turn float32: V is large and most positions may not count.
    student, teacher = student_logits[positions], teacher_logits[positions]
    if not len(student):
        return at_least_float32(student).sum()
    return soft_target_loss(student, teacher, temperature=temperature)


@full_precision
def masked_language_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the pieces that are asked for, averaged over them; 0 if there are none.

    Args:
        logits: (B, T, V) of the student.
        labels: (B, T) int64, `NOT_ASKED` where nothing is.
    """
    asked = labels != NOT_ASKED
    picked = at_least_float32(logits[asked])
    return F.cross_entropy(picked, labels[asked], reduction="sum") / asked.sum().clamp(min=1)


@full_precision
def direction_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """1 - cosine of hidden states, averaged over real tokens: in [0, 2], 0 where they point alike.

    Args:
        student: (B, T, H).
        teacher: (B, T, H).
        mask: (B, T), true on real tokens. At least one token must be real.
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
    cosine = torch.cosine_similarity(student, teacher, dim=-1)  # (B, T)
    return ((1 - cosine) * mask).sum() / mask.sum()
