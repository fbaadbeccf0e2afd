"""Representations of texts seen lately, first in, first out, alike in all processes."""

from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn

NOBODY = -1
"""Language of a place that no text has taken yet."""


class Entries(NamedTuple):
    """Texts as a queue keeps them."""

    student: Tensor
    """(N, D) unit vectors."""
    teacher: Tensor
    """(N, D) unit vectors."""
    languages: Tensor
    """(N,) int64; `NOBODY` where there is no text."""
    identities: Tensor
    """(N, 2) int64; see `distill.matching.identity`."""


class Queue(nn.Module):
    """The last `size` texts of all processes; its buffers go into checkpoints."""

    def __init__(self, size: int, dimensions: int) -> None:
        super().__init__()
        self._size = size
        self.student: Tensor
        self.teacher: Tensor
        self.languages: Tensor
        self.identities: Tensor
        self.next: Tensor
        self.register_buffer("student", torch.zeros(size, dimensions))
        self.register_buffer("teacher", torch.zeros(size, dimensions))
        self.register_buffer("languages", torch.full((size,), NOBODY))
        self.register_buffer("identities", torch.zeros(size, 2, dtype=torch.int64))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    def after(self, batch: Entries) -> Entries:
        """The batch's entries followed by the queue's; copies, which later pushes leave alone."""
        own = (self.student, self.teacher, self.languages, self.identities)
        return Entries(*(torch.cat(pair) for pair in zip(batch, own, strict=True)))

    @torch.no_grad()
    def push(self, batch: Entries) -> None:
        """Put the texts of every process in, in the order of processes; the oldest go out.

        With several processes all of them must call this at the same time.
        """
        if not self._size:
            return
        gathered = Entries(*(from_all(part.detach())[-self._size :] for part in batch))
        count = len(gathered.languages)
        # no .item(): it would wait for the device
        places = (self.next + torch.arange(count, device=self.next.device)) % self._size
        for name, part in gathered._asdict().items():
            getattr(self, name).index_copy_(0, places, part)
        self.next.copy_((self.next + count) % self._size)


def from_all(part: Tensor) -> Tensor:
    """Rows of every process one after the other, however many each has: (N, ...)."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return part
    processes = distributed.get_world_size()
    count = torch.tensor([len(part)], device=part.device)
    counts = [torch.zeros_like(count) for _ in range(processes)]
    distributed.all_gather(counts, count)
    rows = [int(each) for each in counts]
    padded = part.new_zeros(max(rows), *part.shape[1:])
    padded[: len(part)] = part
    received = [torch.empty_like(padded) for _ in range(processes)]
    distributed.all_gather(received, padded)
    return torch.cat([each[:own] for each, own in zip(received, rows, strict=True)])
