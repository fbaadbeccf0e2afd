"""MiniLM: one layer's self-attention as relations between tokens, which know no hidden width.

Version 1, Wang et al. 2020, arXiv:2002.10957: KL of attention distributions (Eq. 4) and of value
relations (Eq. 5 to 7), head by head. Version 2, Wang et al. 2021, arXiv:2012.15828: relations
among queries, keys and values (section 3.1) in any number of heads, into which the concatenated
heads are cut anew, so that neither width nor heads need agree.

Deviation: the mean runs over real positions of the whole batch rather than of each text, so
every token counts alike. Where positions enter by rotation, relations are those before it.

Shapes: B texts, A heads, R relation heads, T tokens, K width of a head, H = A K.
No loss lets gradient reach the teacher.
"""

from torch import Tensor

from distill.objectives import full_precision
from distill.objectives.lightmbert import QueryKey, attention_log_probs


@full_precision
def attention_transfer_loss(student: QueryKey, teacher: QueryKey, mask: Tensor) -> Tensor:
    """KL(teacher || student) of attention distributions, over heads and real positions; v1, Eq. 4.

    Args:
        student: its queries and keys.
        teacher: its queries and keys, of as many heads; their width may differ.
        mask: (B, T), true on real tokens.
    """
    return _kl_over_keys(
        attention_log_probs(student.query, student.key, mask),
        attention_log_probs(teacher.query.detach(), teacher.key.detach(), mask),
        mask,
    )


@full_precision
def relation_loss(student: Tensor, teacher: Tensor, mask: Tensor, *, heads: int | None) -> Tensor:
    """KL(teacher || student) of softmax(X X' / sqrt(K)), over heads and real positions.

    X are the queries, keys or values of a layer. With the heads as they are it is version 1's
    value relation; with another number, version 2's relations.

    Args:
        student: (B, A, T, K).
        teacher: (B, A, T, K), of any heads and width if `heads` is given.
        mask: (B, T), true on real tokens.
        heads: R, which must divide both widths; None leaves the heads as they are.
    """
    if heads is not None:
        student, teacher = _cut_anew(student, heads), _cut_anew(teacher, heads)
    teacher = teacher.detach()
    return _kl_over_keys(
        attention_log_probs(student, student, mask),
        attention_log_probs(teacher, teacher, mask),
        mask,
    )


def _cut_anew(projected: Tensor, heads: int) -> Tensor:
    """(B, A, T, K) -> (B, R, T, A K / R)."""
    texts, tokens = projected.shape[0], projected.shape[2]
    return projected.transpose(1, 2).reshape(texts, tokens, heads, -1).transpose(1, 2)


def _kl_over_keys(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Of log probabilities (B, R, T, T), averaged over heads and real rows."""
    # on padding both sides are alike: no probability of keys, evenly spread rows of queries
    return (teacher.exp() * (teacher - student)).sum() / (mask.sum() * student.shape[1])
