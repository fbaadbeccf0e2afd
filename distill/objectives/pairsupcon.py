"""PairSupCon: of two texts that mean the same, each must find the other among close strangers.

Zhang et al. 2021, arXiv:2109.05424: pairs of natural-language inference, neutral ones dropped;
a classifier tells entailment from contradiction, and entailed pairs are discriminated from all
other texts of the batch, the closest of which count most.

Shapes: B pairs, D embedding dimensions.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.objectives import at_least_float32, full_precision


@full_precision
def pair_discrimination_loss(
    first: Tensor, second: Tensor, entailed: Tensor, *, temperature: float
) -> Tensor:
    """Instance discrimination with hard negatives, in nats, averaged over texts of entailed pairs.

    With s_k the cosines to the 2 B - 2 texts of other pairs, and their weights
    a_k = e^(s_k / t) / mean_k e^(s_k / t), each text i and its partner j give

        -log( e^(s_ij / t) / (e^(s_ij / t) + sum_k a_k e^(s_k / t)) )

    Contradicting pairs are texts to be told from, too. Weights take part in the gradient. 0 if no
    pair is entailed, or if there is one pair only and so nothing to tell apart.

    Args:
        first: (B, D), any length; normalised here.
        second: (B, D), likewise.
        entailed: (B,) bool.
        temperature: t > 0, divides the cosines.

    Raises:
        ValueError: temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    pairs = len(first)
    unit = F.normalize(at_least_float32(torch.cat([first, second])), dim=-1)  # (2 B, D)
    cosines = unit @ unit.T / temperature
    pair_of = torch.arange(pairs, device=unit.device).repeat(2)
    strangers = cosines.masked_fill(pair_of[:, None] == pair_of, float("-inf"))
    if pairs > 1:
        # sum_k a_k e^s_k = (2 B - 2) sum_k e^(2 s_k) / sum_k e^s_k
        hard = (2 * strangers).logsumexp(1) - strangers.logsumexp(1) + math.log(2 * pairs - 2)
    else:
        hard = strangers.amax(1)  # -inf: nothing to tell apart
    partner = cosines.diagonal(offset=pairs).repeat(2)
    loss = torch.logaddexp(partner, hard) - partner
    counted = entailed.repeat(2)
    return (loss * counted).sum() / counted.sum().clamp(min=1)


def pair_features(first: Tensor, second: Tensor) -> Tensor:
    """What the classifier of pairs reads: |u - v| beside u * v of unit embeddings, (B, 2 D)."""
    u, v = (F.normalize(at_least_float32(side), dim=-1) for side in (first, second))
    return torch.cat([(u - v).abs(), u * v], dim=-1)
