"""What keeps fine-tuning from learning by heart: dropouts of layers, features and tokens.

LayerDrop (Fan et al. 2020, arXiv:1909.11556), UniDrop (Wu et al. 2021, arXiv:2104.04946) and
R-Drop (Liang et al. 2021, arXiv:2106.14448). For heads; matching a teacher is regression, where
noise only hurts.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from transformers.modeling_layers import GradientCheckpointingLayer

from distill.anatomy import Encoder, anatomy
from distill.objectives import at_least_float32, full_precision

RATES = ("dropout_prob", "attention_dropout")
"""Under these names families hand the dropout of attention weights to fused kernels."""


@full_precision
def r_drop_loss(logits_a: Tensor, logits_b: Tensor) -> Tensor:
    """Half of KL(a || b) plus half of KL(b || a), in nats, averaged over rows; 0 where they agree.

    R-Drop, Eq. 2: two passes over the same texts, each with its own dropout. Both get gradient.

    Args:
        logits_a: (B, C) of one pass.
        logits_b: (B, C) of the other.
    """
    a, b = (at_least_float32(logits).log_softmax(-1) for logits in (logits_a, logits_b))
    return ((a.exp() - b.exp()) * (a - b)).sum(-1).mean() / 2


class _Installed(ExitStack):
    """Changes to an encoder that are taken back by `remove`, or at the end of a `with`."""

    def remove(self) -> None:
        self.close()


class LayerDrop(_Installed):
    """Skips each layer of an encoder with a probability while it trains, until removed.

    A skipped layer costs nothing and gets no gradient; in evaluation all layers run, unscaled
    (Fan et al., section 3.1). Names of weights stay as they are.
    """

    def __init__(self, encoder: Encoder, probability: float) -> None:
        super().__init__()
        _check_probability(probability)
        for layer in anatomy(encoder).layers:
            layer.forward = _skipping(layer, probability)
            self.callback(layer.__dict__.pop, "forward")


def _skipping(layer: nn.Module, probability: float) -> Callable[..., object]:
    forward = layer.forward
    in_tuple = isinstance(layer, GradientCheckpointingLayer)  # the layers of transformers

    @wraps(forward)
    def maybe(hidden: Tensor, *args: object, **kwargs: object) -> object:
        if layer.training and torch.rand(()).item() < probability:
            return (hidden,) if in_tuple else hidden
        return forward(hidden, *args, **kwargs)

    return maybe


class FeatureDrop(_Installed):
    """Dropout inside the layers of an encoder while it trains, until removed.

    UniDrop's FD-1 (attention weights), FD-2 (the feed-forward activation) and FD-3 (queries, keys
    and values), and the dropouts that the family has after its sub-layers. FD-4, on what the
    classifier reads, is the caller's: the classifier is no part of the encoder.

    Raises:
        ValueError: the probability is none.
    """

    def __init__(self, encoder: Encoder, probability: float) -> None:
        super().__init__()
        _check_probability(probability)
        parts = anatomy(encoder)
        self._probability = probability
        for number, layer in enumerate(parts.layers, start=1):
            _set_rates(self, layer, probability)
            for projected in parts.projections.get(number, ()):
                self._keep(projected.register_forward_hook(self._drop_output))
            for linear in _closing(layer, parts.width):
                self._keep(linear.register_forward_pre_hook(self._drop_input))

    def _keep(self, handle: RemovableHandle) -> None:
        self.callback(handle.remove)

    def _drop_output(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return F.dropout(output, self._probability, module.training)

    def _drop_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return F.dropout(inputs[0], self._probability, module.training)


def _set_rates(changes: ExitStack, within: nn.Module, probability: float) -> None:
    """Give every dropout inside a module this probability until the changes are taken back."""
    for module in within.modules():
        names = [name for name in RATES if isinstance(getattr(module, name, None), float)]
        for name in names + ["p"] * isinstance(module, nn.Dropout):
            changes.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, probability)


def _closing(layer: nn.Module, width: int) -> list[nn.Linear]:
    """The linear layers that read a feed-forward part's activation: they alone narrow.

    Not those beside a dropout of that name (ModernBERT's), which is theirs and has its rate set.
    """
    return [
        part
        for parent in layer.modules()
        for part in parent.children()
        if isinstance(part, nn.Linear)
        and part.out_features == width
        and part.in_features != width
        and not hasattr(parent, "drop")
    ]


def _check_probability(probability: float) -> None:
    if not 0 <= probability < 1:
        raise ValueError(f"a dropout probability is at least 0 and below 1, got {probability}")


@contextmanager
def dropout_at(module: nn.Module, probability: float) -> Iterator[None]:
    """Give every dropout inside a module this probability for a while: another view of a text."""
    with ExitStack() as changes:
        _set_rates(changes, module, probability)
        yield


def kept_positions(
    tokens: int,
    *,
    probability: float,
    keep_whole: float,
    random: np.random.Generator,
    always: Collection[int] = (),
) -> list[int]:
    """Positions of a text that stay where its tokens are deleted at random (UniDrop's data dropout).

    Args:
        tokens: how many the text has.
        probability: of deleting a token.
        keep_whole: probability with which the whole text stays.
        random: where chance comes from.
        always: positions never deleted beside the first and the last, which frame the text.
    """
    if random.random() < keep_whole:
        return list(range(tokens))
    stays = random.random(tokens) >= probability
    stays[[0, -1, *always]] = True
    return np.flatnonzero(stays).tolist()
