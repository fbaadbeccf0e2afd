"""A word table as the product of two thin factors, the best there is of a given rank.

XtremeDistil (Mukherjee & Awadallah 2020, arXiv:2004.05686) starts a multilingual student's word
embeddings from the singular value decomposition of the teacher's and keeps them frozen. Here the
large factor is frozen, as LightMBERT freezes the table, and the small one is trained.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """A table (V, H) is nearly `factors @ mixing.T`."""

    factors: Tensor
    """(V, R)"""
    mixing: Tensor
    """(H, R), orthonormal columns, as the weight of a linear layer."""


def factorised(table: Tensor, rank: int) -> Factors:
    """Factorise a table (V, H) so that the squared error of the product is the least.

    The right singular vectors of E are the eigenvectors of the (H, H) matrix E'E, in float64: a
    table has far more rows than columns.
    """
    exact = table.double()
    # ascending eigenvalues
    vectors = torch.linalg.eigh(exact.T @ exact).eigenvectors[:, -rank:].flip(1)
    return Factors((exact @ vectors).to(table.dtype), vectors.to(table.dtype))
