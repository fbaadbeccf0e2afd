"""Sentence distillation: a text and its translation land on the teacher's embedding of the English.

Reimers & Gurevych 2020, arXiv:2004.09813: mean squared error between the teacher's embedding of
an English text and the student's embeddings of that text and of its translation. Added here: an
in-batch contrastive term (InfoNCE, van den Oord et al. 2018, arXiv:1807.03748, Eq. 4), because
retrieval asks for the right neighbour, which a small distance alone does not promise.

Shapes: B texts, D embedding dimensions. No loss lets gradient reach the teacher.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.objectives import at_least_float32, full_precision


@full_precision
def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance between unit embeddings, averaged over texts: 2 - 2 cos, in [0, 4].

    The paper averages over dimensions too; the sum is used here, so that the weight of the term
    does not depend on the embedding's size.

    Args:
        student: (B, D), any length; normalised here.
        teacher: (B, D), any length; normalised here.
    """
    student, teacher = _unit(student), _unit(teacher.detach())
    return (student - teacher).square().sum(-1).mean()


@full_precision
def contrastive_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE in nats: each student row must pick its own teacher row out of the batch's.

    Rows whose teacher embeddings are the same text are not counted as negatives of each other.

    Args:
        student: (B, D), any length; normalised here.
        teacher: (B, D), any length; normalised here.
        temperature: divides the cosines; positive.

    Raises:
        ValueError: temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student, teacher = _unit(student), _unit(teacher.detach())
    logits = student @ teacher.T / temperature  # (B, B)
    same_text = (teacher @ teacher.T > 1 - 1e-5).fill_diagonal_(False)
    logits = logits.masked_fill(same_text, float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(at_least_float32(vectors), dim=-1)
