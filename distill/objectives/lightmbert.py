"""LightMBERT: the student's last layer answers as the teacher's last layer does.

Jiao et al. 2021, arXiv:2103.06418: mean squared error of the top layer's attention and hidden
states, from a student that starts as the teacher's bottom layers with its embeddings frozen.
The paper's equations were not at hand; attention is matched before the softmax, as in the same
authors' TinyBERT (arXiv:1909.10351, Eq. 7). Deviation: both means run over real tokens only, so
that padding neither dilutes the loss nor changes it. Later work that repeats the method matches
the attention after the softmax; that is offered as well.

Shapes: B texts, T tokens, A heads, K width of a head, H hidden width.
No loss lets gradient reach the teacher.
"""

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.objectives import at_least_float32, full_precision


class QueryKey(Protocol):
    """Queries and keys of one attention layer, (B, A, T, K) each."""

    @property
    def query(self) -> Tensor: ...
    @property
    def key(self) -> Tensor: ...


@full_precision
def attention_score_loss(student: QueryKey, teacher: QueryKey, mask: Tensor) -> Tensor:
    """Mean squared difference of attention scores Q K' / sqrt(K) over heads and real token pairs.

    No (T, T) tensor is formed. With D = Qs - Qt and E = Ks - Kt, padding rows zeroed,

        Qs Ks' - Qt Kt' = D Ks' + Qt E'

    whose squared Frobenius norm is, with <.,.> the sum of elementwise products,

        <D'D, Ks'Ks> + 2 <D'Qt, Ks'E> + <Qt'Qt, E'E>

    over (K, K) matrices. Expanding in D and E rather than in the four Gram matrices of Q and K
    matters: near agreement those are large and nearly cancel.

    Heads may differ in width: zeros beside the narrower leave its products as they are.

    Args:
        student: its queries and keys.
        teacher: its queries and keys, of as many heads.
        mask: (B, T), true on real tokens.
    """
    heads, width = student.query.shape[1], max(student.query.shape[3], teacher.query.shape[3])
    real = mask[:, None, :, None]  # (B, 1, T, 1)

    def widened(tensor: Tensor) -> Tensor:
        own = tensor.shape[3]
        scale: float = (width / own) ** 0.25  # of both factors, so their product / sqrt(K) stays
        return F.pad(at_least_float32(tensor) * real, (0, width - own)) * scale

    query, key = widened(student.query), widened(student.key)
    teacher_query, teacher_key = widened(teacher.query.detach()), widened(teacher.key.detach())
    difference_query, difference_key = query - teacher_query, key - teacher_key
    squared = (
        _overlap(difference_query, difference_query, key, key)
        + 2 * _overlap(difference_query, teacher_query, key, difference_key)
        + _overlap(teacher_query, teacher_query, difference_key, difference_key)
    )
    pairs = mask.sum(1).square().sum()
    return squared / (width * heads * pairs)


def _overlap(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """<A'B, C'D> summed over texts and heads, for (B, A, T, K) tensors."""
    return ((a.mT @ b) * (c.mT @ d)).sum()


@full_precision
def attention_probability_loss(student: QueryKey, teacher: QueryKey, mask: Tensor) -> Tensor:
    """Mean squared difference of attention after the softmax, over heads and real token pairs.

    Here (B, A, T, T) tensors are formed: the softmax leaves no shorter way.

    Args:
        student: its queries and keys.
        teacher: its queries and keys, of as many heads; their width may differ.
        mask: (B, T), true on real tokens.
    """
    difference = attention_log_probs(student.query, student.key, mask).exp()
    difference = difference - attention_log_probs(teacher.query, teacher.key, mask).exp().detach()
    # on padding both sides are alike: no probability of keys, evenly spread rows of queries
    return difference.square().sum() / (mask.sum(1).square().sum() * student.query.shape[1])


def attention_log_probs(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """Log softmax of query key' / sqrt(K) over real keys, (B, A, T, T), in at least float32.

    On padding keys it is finite and so low that its exponential is 0; padding queries spread
    evenly over the real keys.
    """
    real = mask[:, None, :, None]
    query, key = at_least_float32(query) * real, at_least_float32(key) * real
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask[:, None, None, :], lowest).log_softmax(-1)


@full_precision
def hidden_state_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error between hidden states of real tokens, over tokens and width.

    Args:
        student: (B, T, H).
        teacher: (B, T, H).
        mask: (B, T), true on real tokens. At least one token must be real.
    """
    difference = at_least_float32(student) - at_least_float32(teacher.detach())
    squared_error = difference.square().mean(-1)  # (B, T)
    return (squared_error * mask).sum() / mask.sum()
