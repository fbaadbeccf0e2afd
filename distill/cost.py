"""What a run will cost, from configs alone: parameters, bytes, operations and time.

Operations are those of matrix products, a multiplication and an addition counted as two: of each
linear layer 2 x inputs x outputs a token, of attention 4 x T x H a token and layer. Backward is
twice forward (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). What the objectives themselves
compute, convolutions and norms are left out: they are few.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from distill.anatomy import PIECE_HEAD, Encoder, anatomy
from distill.matching import Match
from distill.tables.train import TrainTable
from distill.training import Skeleton

FLOAT_BYTES = 4
ADAM_NUMBERS = 2
"""Adam keeps two numbers for each parameter it trains."""
CPU_SHARE = 0.4
"""Share of a large matrix product's rate that training reaches on a CPU: an assumption."""
GPU_SHARE = 0.35
"""Share of its peak that training reaches on a GPU: an assumption."""
GPU_PEAKS = {
    "H100 SXM": (989.0, 67.0),
    "A100 SXM": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "RTX 4090": (165.0, 82.6),
    "L4": (121.0, 30.3),
}
"""Name -> peak of dense matrix products in bfloat16 and in float32, TFLOP/s, by the maker's
data sheets."""


@dataclass(frozen=True)
class Cost:
    """A run in numbers."""

    teacher_parameters: int
    student_parameters: int
    student_embeddings: int
    """Of these, those of the embedding block."""
    trained_parameters: int
    """The student's and the objectives' own."""
    own_parameters: int
    """The objectives' own, such as projections."""
    teacher_flops: float
    """Per token of a batch, forward over every side that the objectives read."""
    student_flops: float
    """Likewise, forward and backward."""
    step_tokens: int
    """Padded tokens of one step in one process, at most; each side of parallel text has as many."""
    steps: int

    @property
    def weight_bytes(self) -> int:
        return FLOAT_BYTES * (
            self.teacher_parameters + self.student_parameters + self.own_parameters
        )

    @property
    def optimizer_bytes(self) -> int:
        """Adam's numbers and the gradients."""
        return FLOAT_BYTES * (ADAM_NUMBERS + 1) * self.trained_parameters

    @property
    def checkpoint_bytes(self) -> int:
        saved = self.student_parameters + self.own_parameters
        return FLOAT_BYTES * (saved + ADAM_NUMBERS * self.trained_parameters)

    @property
    def tokens(self) -> int:
        return self.step_tokens * self.steps

    @property
    def flops(self) -> float:
        """Of the whole run in one process."""
        return (self.teacher_flops + self.student_flops) * self.tokens


def cost_of(table: TrainTable, skeleton: Skeleton) -> Cost:
    """What a recipe's training run costs, if each batch is as large as it may be."""
    student, teacher, matches = skeleton.student, skeleton.teacher, skeleton.matches
    own = sum(parameter.numel() for match in matches for parameter in match.parameters())
    return Cost(
        teacher_parameters=_count(teacher),
        student_parameters=_count(student),
        student_embeddings=_count(anatomy(student).embeddings),
        trained_parameters=_count(student, trained=True) + own,
        own_parameters=own,
        teacher_flops=_passes(teacher, table, matches, of_student=False),
        student_flops=3 * _passes(student, table, matches, of_student=True),
        step_tokens=table.max_batch_tokens * table.accumulation_steps,
        steps=table.steps,
    )


def forward_flops(encoder: Encoder, *, tokens: int) -> float:
    """Operations of one forward pass per token of a text this long, without its piece head."""
    parts = anatomy(encoder)
    linear = sum(2 * layer.weight.numel() for layer in _linear_layers(encoder))
    return linear + 4.0 * tokens * parts.width * len(parts.attention_layers)


def _linear_layers(encoder: Encoder) -> Iterator[nn.Linear]:
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear) and not name.startswith(PIECE_HEAD):
            yield module


def _passes(
    encoder: Encoder, table: TrainTable, matches: list[Match], *, of_student: bool
) -> float:
    """Operations per token over every side that an encoder reads."""
    sides: dict[str, bool] = {}
    english_every = max(match.english_every for match in matches) if of_student else 1
    for match in matches:
        wants = match.student_wants if of_student else match.teacher_wants
        for side in match.student_reads if of_student else match.teacher_reads:
            sides[side] = sides.get(side, False) or wants.pieces
    parts = anatomy(encoder)
    body = forward_flops(encoder, tokens=table.max_tokens)
    pieces = 2.0 * parts.width * (parts.width + parts.vocabulary)
    return sum(
        (body + (pieces if wanted else 0.0)) / (english_every if side == "english" else 1)
        for side, wanted in sides.items()
    )


def _count(module: nn.Module, *, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def cpu_rate(*, width: int, precision: str, threads: int) -> float:
    """Operations a second of matrix products as wide as the student's, measured here."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.set_num_threads(threads)
    left, right = torch.randn(1024, width, dtype=dtype), torch.randn(width, 4 * width, dtype=dtype)
    best = 0.0
    for _ in range(5):  # the best of some: others may be at work on this machine
        began = time.perf_counter()
        left @ right
        best = max(best, 8.0 * 1024 * width**2 / (time.perf_counter() - began))
    return best
