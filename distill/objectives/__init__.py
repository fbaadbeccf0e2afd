"""What the objectives share: the precision they are computed in."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is finer: bfloat16 sums lose small errors."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
