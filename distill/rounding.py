"""Put learned rounding into a BERT encoder, and take it out again."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from app.errors import LightMBERTError
from distill.anatomy import Encoder, anatomy
from distill.batches import Tokens
from distill.lsq import Learned, RoundedLinear, activation_step, learned, weight_step

TOKENS_PER_BATCH = 256
"""Of each calibration batch: enough to see where values lie."""


class RoundingError(LightMBERTError):
    """Rounding cannot be learned for an encoder."""

    code = "no_rounding"


@dataclass(frozen=True)
class _Place:
    """A linear layer and the module that holds it."""

    owner: nn.Module
    name: str

    @property
    def module(self) -> nn.Module:
        found: nn.Module = getattr(self.owner, self.name)
        return found

    def put(self, module: nn.Module) -> None:
        setattr(self.owner, self.name, module)


def products(encoder: Encoder) -> list[list[_Place]]:
    """The encoder's products in the order its graph has them, layers of one input together.

    Raises:
        RoundingError: the encoder is not of BERT's layers.
    """
    facts = anatomy(encoder)
    if facts.family != "bert":
        raise RoundingError(f"rounding is learned for encoders of family bert, not {facts.family}")
    found = []
    layers: tuple[Any, ...] = facts.layers  # modules of transformers, whose parts have no types
    for layer in layers:
        attention = layer.attention
        found += [
            [_Place(attention.self, name) for name in ("query", "key", "value")],
            [_Place(attention.output, "dense")],
            [_Place(layer.intermediate, "dense")],
            [_Place(layer.output, "dense")],
        ]
    return found


def attach(encoder: Encoder, batches: Iterable[Tokens], *, largest: int, cut: float) -> None:
    """Make every linear layer of the body round, in place, steps fit to these texts.

    Args:
        encoder: of family BERT, float32.
        batches: texts like those that will be served.
        largest: steps that a weight has on either side of zero.
        cut: share of the values that may be clipped at first.

    Raises:
        RoundingError: the encoder is not of BERT's layers.
    """
    places = products(encoder)
    samples = _inputs(encoder, [group[0].module for group in places], batches)
    for group in places:
        activation = activation_step(samples[group[0].module], cut=cut)
        for place in group:
            linear = place.module
            assert isinstance(linear, nn.Linear), "BERT's products are linear layers"
            weight = weight_step(linear.weight, largest=largest, cut=cut)
            place.put(RoundedLinear(linear, activation, weight))


def detach(encoder: Encoder) -> list[Learned]:
    """Put the plain linear layers back, in place, and return what was learned, in graph order."""
    found = []
    for group in products(encoder):
        layers = [place.module for place in group]
        rounded = [layer for layer in layers if isinstance(layer, RoundedLinear)]
        assert len(rounded) == len(layers), "rounding was attached to all of them"
        found.append(learned(rounded))
        for place, layer in zip(group, rounded, strict=True):
            place.put(layer.linear)
    return found


@torch.inference_mode()
def _inputs(
    encoder: Encoder, modules: list[nn.Module], batches: Iterable[Tokens]
) -> dict[nn.Module, Tensor]:
    """What enters each module at real tokens, (tokens, H), a sample of every batch."""
    kept: dict[nn.Module, list[Tensor]] = defaultdict(list)
    mask = torch.empty(0)

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        real = inputs[0][mask]  # (tokens, H)
        kept[module].append(real[:: -(-len(real) // TOKENS_PER_BATCH)].float().clone())

    hooks = [module.register_forward_pre_hook(keep) for module in modules]
    for tokens in batches:
        mask = tokens.mask
        encoder(input_ids=tokens.ids, attention_mask=tokens.mask.long())
    for hook in hooks:
        hook.remove()
    return {module: torch.cat(samples) for module, samples in kept.items()}
