"""Which texts of batches are the same text, or translations of each other."""

import torch
from torch import Tensor

from distill.batches import Batch, Tokens

FACTOR = 6364136223846793005
"""Odd, so that no token's place is lost modulo 2^64."""


def identities(batch: Batch) -> Tensor:
    """Two numbers per text, (B, 2) int64: the text's own and its English's, the same if it has none.

    Numbers are equal where token ids are, whatever the padding.
    """
    text = _numbers(batch.text)
    english = text if batch.english is None else _numbers(batch.english)
    return torch.stack([text, english], dim=1)


def of_one_meaning(one: Tensor, other: Tensor) -> Tensor:
    """(B, 2) and (N, 2) identities -> (B, N) bool: the same text, or known to be translations."""
    return (one[:, None, :, None] == other[None, :, None, :]).flatten(2).any(2)


def _numbers(tokens: Tokens) -> Tensor:
    """Polynomial hashes of B texts, (B,), modulo 2^64."""
    number = tokens.ids.new_zeros(len(tokens.ids))
    for ids, real in zip(tokens.ids.T, tokens.mask.T, strict=True):
        number = (number * FACTOR + ids + 1).where(real, number)
    return number
