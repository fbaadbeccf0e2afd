"""What the objectives share: the precision they are computed in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is finer: bfloat16 sums lose small errors."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def without_autocast() -> Iterator[None]:
    """Matrix products inside run in the precision of what they are given, on any device."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """A loss whose matrix products autocast leaves alone."""

    @wraps(loss)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        with without_autocast():
            return loss(*args, **kwargs)

    return exact
