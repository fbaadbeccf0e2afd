"""LightMBERT: the student's last layer answers as the teacher's last layer does.

Jiao et al. 2021, arXiv:2103.06418: mean squared error of the top layer's attention and hidden
states, from a student that starts as the teacher's bottom layers with its embeddings frozen.
The paper's equations were not at hand; attention is matched before the softmax, as in the same
authors' TinyBERT (arXiv:1909.10351, Eq. 7). Deviation: both means run over real tokens only, so
that padding neither dilutes the loss nor changes it.

Shapes: B texts, T tokens, A heads, K width of a head, H hidden width.
No loss lets gradient reach the teacher.
"""

from dataclasses import dataclass

from torch import Tensor

from distill.objectives import at_least_float32


@dataclass(frozen=True)
class QueryKey:
    """Queries and keys of one attention layer, (B, A, T, K) each."""

    query: Tensor
    key: Tensor


def attention_score_loss(student: QueryKey, teacher: QueryKey, mask: Tensor) -> Tensor:
    """Mean squared difference of attention scores Q K' / sqrt(K) over heads and real token pairs.

    No (T, T) tensor is formed. With D = Qs - Qt and E = Ks - Kt, padding rows zeroed,

        Qs Ks' - Qt Kt' = D Ks' + Qt E'

    whose squared Frobenius norm is, with <.,.> the sum of elementwise products,

        <D'D, Ks'Ks> + 2 <D'Qt, Ks'E> + <Qt'Qt, E'E>

    over (K, K) matrices. Expanding in D and E rather than in the four Gram matrices of Q and K
    matters: near agreement those are large and nearly cancel.

    Args:
        student: its last layer's queries and keys.
        teacher: its last layer's queries and keys, of the same number of heads and width.
        mask: (B, T), true on real tokens.
    """
    heads, width = student.query.shape[1], student.query.shape[3]
    real = mask[:, None, :, None]  # (B, 1, T, 1)
    query, key = at_least_float32(student.query) * real, at_least_float32(student.key) * real
    teacher_query = at_least_float32(teacher.query.detach()) * real
    teacher_key = at_least_float32(teacher.key.detach()) * real
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
