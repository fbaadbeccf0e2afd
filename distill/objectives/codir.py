"""CoDIR: told from other texts, the student's representation of a text must suit the teacher's.

Sun et al. 2020, arXiv:2009.14167: representations of several layers side by side, projected to
few dimensions on either side; the teacher's is the anchor, the student's of the same text the
positive, the student's of other texts the negatives. The paper's loss is InfoNCE; its public code
has the noise-contrastive form of CRD (Tian et al. 2020, arXiv:1910.10699, section 3). Both are
here. Deviations: negatives come from the batch and a queue of former ones rather than from a
bank with a place for each training text, so text may stream; and they are chosen by language.

Shapes: B texts, N candidates, M negatives, D dimensions. Vectors are of unit length. Gradient
reaches both projections; the encoder of the teacher is cut off by whoever runs it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.objectives import at_least_float32, full_precision


@dataclass(frozen=True)
class Negatives:
    """Which candidates each text is told from."""

    index: Tensor
    """(B, M) int64 into the candidates."""
    counts: Tensor
    """(B, M) bool; false where a text has fewer than M."""


def choose_negatives(
    languages: Tensor,
    candidate_languages: Tensor,
    forbidden: Tensor,
    *,
    count: int,
    same_language: float,
) -> Negatives:
    """Draw negatives for each text: a share from its own language, the rest from others.

    Without that share a student solves the task by telling languages apart. Where either kind is
    short, the other fills up; where both are, all there are count.

    Args:
        languages: (B,) of the texts.
        candidate_languages: (N,).
        forbidden: (B, N) bool: the text itself, the same text elsewhere, its translations.
        count: how many negatives a text should have.
        same_language: the share, in [0, 1].
    """
    same = (languages[:, None] == candidate_languages) & ~forbidden
    chance = torch.rand(same.shape, device=same.device)
    own = min(round(count * same_language), same.shape[1])
    best = chance.masked_fill(~same, -1.0).topk(own, dim=1).indices
    drawn = torch.zeros_like(same).scatter_(1, best, True) & same
    # In this order: those drawn above, other languages, what is left of the own one.
    priority = chance + 2.0 * drawn + 1.0 * ~same
    top = priority.masked_fill(forbidden, -1.0).topk(min(count, same.shape[1]), dim=1)
    return Negatives(top.indices, top.values >= 0)


@full_precision
def info_nce_loss(
    anchor: Tensor,
    positive: Tensor,
    candidates: Tensor,
    negatives: Negatives,
    *,
    temperature: float,
) -> Tensor:
    """-log of the positive's share among the positive and the negatives, averaged over texts.

    0 is approached where the positive is far closer than all negatives. A text without
    negatives counts 0.

    Args:
        anchor: (B, D), unit vectors.
        positive: (B, D), row by row the anchor's.
        candidates: (N, D), unit vectors.
        negatives: which of them count.
        temperature: divides the cosines; positive.
    """
    closeness, others = _logits(anchor, positive, candidates, negatives, temperature)
    others = others.masked_fill(~negatives.counts, float("-inf"))
    return (torch.cat([closeness, others], dim=1).logsumexp(1) - closeness[:, 0]).mean()


@full_precision
def nce_loss(
    anchor: Tensor,
    positive: Tensor,
    candidates: Tensor,
    negatives: Negatives,
    *,
    temperature: float,
    log_mean: Tensor,
) -> Tensor:
    """Telling the positive from M draws of noise, one question each, averaged over texts.

    With r = e^(cosine / t) / m, where m is the mean of e^(cosine / t) when training began:

        -log( r+ / (r+ + M) ) - sum_k log( M / (r_k + M) )

    which is the public code's loss: its number of training texts cancels out. The sum over
    negatives is the paper's; so the value grows with M only as far as negatives come close.

    Args:
        anchor: (B, D), unit vectors.
        positive: (B, D), row by row the anchor's.
        candidates: (N, D), unit vectors.
        negatives: which of them count.
        temperature: t > 0.
        log_mean: log m, (); see `log_mean_of`.
    """
    closeness, others = _logits(anchor, positive, candidates, negatives, temperature)
    noise = negatives.counts.sum(1, keepdim=True).clamp(min=1).log()  # log M, (B, 1)
    # -log(r / (r + M)) = softplus(log M - log r), and -log(M / (r + M)) = softplus(log r - log M)
    hit = F.softplus(noise - (closeness - log_mean))
    missed = F.softplus(others - log_mean - noise) * negatives.counts
    return (hit[:, 0] + missed.sum(1)).mean()


def log_mean_of(
    anchor: Tensor,
    positive: Tensor,
    candidates: Tensor,
    negatives: Negatives,
    *,
    temperature: float,
) -> Tensor:
    """Log of the mean of e^(cosine / t) over all positives and negatives of a batch, ()."""
    closeness, others = _logits(
        anchor.detach(), positive.detach(), candidates.detach(), negatives, temperature
    )
    both = torch.cat([closeness[:, 0], others[negatives.counts]])
    return both.logsumexp(0) - math.log(len(both))


def _logits(
    anchor: Tensor, positive: Tensor, candidates: Tensor, negatives: Negatives, temperature: float
) -> tuple[Tensor, Tensor]:
    """Cosines over temperature: to the positive (B, 1), and to the negatives (B, M)."""
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    anchor, positive = at_least_float32(anchor), at_least_float32(positive)
    all_others = anchor @ at_least_float32(candidates).T  # (B, N)
    closeness = (anchor * positive).sum(1, keepdim=True)
    return closeness / temperature, all_others.gather(1, negatives.index) / temperature
