"""Learned step size quantization: rounding that trains, and the steps with it.

LSQ (Esser et al. 2020, arXiv:1902.08153), in the setting of KDLSQ-BERT (arXiv:2101.05938), where
an encoder learns from its own full precision:

    v^ = round(clip(v / s, -Qn, Qp)) s

Rounding passes gradient on as if it were not there. What is clipped passes none to v, and to s
-Qn or Qp; what is not, round(v / s) - v / s to s. The gradient of s is scaled by 1 / sqrt(N Qp),
N values a step. As in KDLSQ, a first step covers what is left of the values once a share of them
is cut off either end.

Deviation: an activation's Qn and Qp are not the same, but follow from where its values lie, so
that what leaves GELU, nearly never negative, keeps nearly all 8 bits.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_ACTIVATION = 255
LEAST_STEP = 1e-8


class LearnedStep(nn.Module):
    """Rounds values to `negative` steps below zero and `positive` above, of learned size."""

    def __init__(self, step: Tensor, *, negative: int, positive: int) -> None:
        super().__init__()
        self.step = nn.Parameter(step)
        """() for one step, (N, 1) for one each row of a weight (N, M)."""
        self.negative, self.positive = negative, positive

    @property
    def size(self) -> Tensor:
        """The step, positive."""
        return self.step.abs().clamp(min=LEAST_STEP)

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape that the step broadcasts to -> the same, rounded."""
        # of one text, where texts share a step
        per_step = values[0].numel()
        scale = (per_step * self.positive) ** -0.5
        size = _scaled_gradient(self.size, scale)
        return _rounded((values / size).clamp(-self.negative, self.positive)) * size

    @torch.no_grad()
    def whole(self, values: Tensor) -> Tensor:
        """How many steps each value is, as int64."""
        return (values / self.size).round().clamp(-self.negative, self.positive).long()


def _scaled_gradient(tensor: Tensor, scale: float) -> Tensor:
    return (tensor - tensor * scale).detach() + tensor * scale


def _rounded(tensor: Tensor) -> Tensor:
    return (tensor.round() - tensor).detach() + tensor


def weight_step(weight: Tensor, *, largest: int, cut: float) -> LearnedStep:
    """A symmetric step for each row of a weight (N, M), none of them larger than needed.

    Args:
        weight: rows are output channels.
        largest: steps on either side of zero.
        cut: share of a row's values that may be clipped at first.
    """
    peak = torch.quantile(weight.detach().abs(), 1 - cut, dim=1, keepdim=True)  # (N, 1)
    return LearnedStep(_step(peak / largest), negative=largest, positive=largest)


def activation_step(values: Tensor, *, cut: float) -> LearnedStep:
    """One step for values like these, zero among the 256 that it can say.

    Args:
        values: a sample, of any shape.
        cut: share of the values that may be clipped at either end at first.
    """
    # of all of them: loud channels are few, and torch's own quantile is bounded
    low, high = np.quantile(values.detach().numpy(), [cut, 1 - cut])
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    step = _step(torch.tensor((high - low) / LARGEST_ACTIVATION))
    zero = min(max(round(-low / step.item()), 0), LARGEST_ACTIVATION - 1)
    return LearnedStep(step, negative=zero, positive=LARGEST_ACTIVATION - zero)


def _step(size: Tensor) -> Tensor:
    # all values alike, such as a row of zeros
    return torch.where(size > LEAST_STEP, size, torch.ones_like(size))


class RoundedLinear(nn.Module):
    """A linear layer whose input and weight are rounded; layers may share an input's step."""

    def __init__(self, linear: nn.Linear, activation: LearnedStep, weight: LearnedStep) -> None:
        super().__init__()
        self.linear, self.activation, self.weight_step = linear, activation, weight

    def forward(self, values: Tensor) -> Tensor:
        """(B, T, M) -> (B, T, N)."""
        weight = self.weight_step(self.linear.weight)
        return F.linear(self.activation(values), weight, self.linear.bias)


@dataclass(frozen=True)
class Learned:
    """What a graph needs of one product once training is done."""

    weight: Tensor
    """(M, N) int8 steps: a column for each output channel, as ONNX multiplies."""
    weight_scales: Tensor
    """(N,)"""
    scale: float
    """Of the input."""
    zero: int
    """Which of 0..255 stands for 0 in the input."""


def learned(layers: list[RoundedLinear]) -> Learned:
    """One product out of layers that read the same input, such as query, key and value."""
    steps = [layer.weight_step for layer in layers]
    pairs = zip(layers, steps, strict=True)
    whole = torch.cat([step.whole(layer.linear.weight) for layer, step in pairs])  # (N, M)
    scales = torch.cat([step.size.detach().flatten() for step in steps])
    activation = layers[0].activation
    return Learned(
        whole.T.to(torch.int8), scales, float(activation.size.detach()), activation.negative
    )
