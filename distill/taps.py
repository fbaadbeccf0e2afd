"""Look inside an encoder: only what an objective wants is kept, by hooks on its modules.

Attention libraries hand out no scores and keep no queries, so these are caught as they leave
their linear layers. That leaves fused attention and torch.compile on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from distill.anatomy import PIECE_HEAD, Anatomy, Encoder, anatomy
from distill.batches import Tokens


@dataclass(frozen=True)
class Wants:
    """What an objective looks at in one encoder; `a | b` is what either looks at."""

    hidden: frozenset[int] = field(default_factory=frozenset)
    """0: what the embedding block gives; l: what layer l gives."""
    attention: frozenset[int] = field(default_factory=frozenset)
    """Layers whose queries, keys and values are wanted."""
    pieces: bool = False
    """Logits over the vocabulary, by the masked-language head."""

    def __or__(self, other: "Wants") -> "Wants":
        return Wants(
            self.hidden | other.hidden,
            self.attention | other.attention,
            self.pieces or other.pieces,
        )


@dataclass(frozen=True)
class Projections:
    """Queries, keys and values of one attention layer, (B, A, T, K) each."""

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class View:
    """One forward pass over some texts, as far as it was wanted."""

    mask: Tensor
    """(B, T), true on real tokens."""
    last_hidden: Tensor
    """(B, T, H)"""
    pooled: Tensor
    """Mean of the last hidden state over real tokens, (B, H) float32."""
    hidden: Mapping[int, Tensor]
    """Layer -> (B, T, H). In a ModernBERT the last one lies before the final norm."""
    attention: Mapping[int, Projections]
    """Layer -> its projections; before rotation where positions enter by it."""
    piece_logits: Tensor | None
    """(B, T, V)"""


class Observer:
    """Runs an encoder and shows what is wanted of it, until removed."""

    def __init__(self, encoder: Encoder, wants: Wants) -> None:
        """Hook the modules that hold what is wanted.

        Raises:
            ValueError: the encoder has no such layer, no attention there, or no piece head.
        """
        parts = anatomy(encoder)
        check_wants(wants, parts)
        self._encoder, self._wants, self._anatomy = encoder, wants, parts
        self._caught: dict[tuple[str, int, int], Tensor] = {}
        self._handles = [
            _layer(parts, number).register_forward_hook(self._catch("hidden", number, 0))
            for number in sorted(wants.hidden)
        ]
        for number in sorted(wants.attention):
            for index, module in enumerate(parts.projections[number]):
                catch = self._catch("projection", number, index)
                self._handles.append(module.register_forward_hook(catch))

    def __call__(self, tokens: Tokens) -> View:
        """Run the encoder; its dropout, gradient mode and precision are the caller's affair."""
        self._caught.clear()
        last = self._encoder(
            input_ids=tokens.ids, attention_mask=tokens.mask.long()
        ).last_hidden_state
        caught = dict(self._caught)
        self._caught.clear()
        head = getattr(self._encoder, PIECE_HEAD, None) if self._wants.pieces else None
        return View(
            mask=tokens.mask,
            last_hidden=last,
            pooled=mean_over_tokens(last, tokens.mask),
            hidden={number: caught["hidden", number, 0] for number in self._wants.hidden},
            attention={
                number: self._projections(caught, number) for number in self._wants.attention
            },
            piece_logits=None if head is None else head(last, self._anatomy.word_table.weight),
        )

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _catch(self, what: str, number: int, index: int) -> Callable[..., None]:
        caught = self._caught

        def hook(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            caught[what, number, index] = output[0] if isinstance(output, tuple) else output

        return hook

    def _projections(
        self, caught: Mapping[tuple[str, int, int], Tensor], number: int
    ) -> Projections:
        linear = [
            caught["projection", number, index]
            for index in range(len(self._anatomy.projections[number]))
        ]
        if len(linear) == 1:  # fused: queries, then keys, then values
            linear = list(linear[0].chunk(3, dim=-1))
        return Projections(*(self._by_head(projected) for projected in linear))

    def _by_head(self, projected: Tensor) -> Tensor:
        """(B, T, H) -> (B, A, T, K)."""
        heads = self._anatomy.heads
        return projected.view(*projected.shape[:2], heads, -1).transpose(1, 2)


def mean_over_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens: (B, T, H) under a mask (B, T) -> (B, H) float32."""
    real = mask.unsqueeze(-1).float()  # (B, T, 1)
    pooled: Tensor = (hidden.float() * real).sum(1) / real.sum(1)
    return pooled


def check_wants(wants: Wants, parts: Anatomy) -> None:
    """Refuse what an encoder cannot show.

    Raises:
        ValueError: it has no such layer, no attention there, or no piece head.
    """
    if beyond := [number for number in sorted(wants.hidden) if not 0 <= number <= parts.depth]:
        raise ValueError(f"hidden state {beyond[0]} is wanted of {parts.depth} layers")
    if lacking := sorted(wants.attention - set(parts.attention_layers)):
        raise ValueError(
            f"attention of layer {lacking[0]} is wanted; layers with attention are "
            f"{', '.join(map(str, parts.attention_layers)) or 'none'}"
        )
    if wants.pieces and not parts.has_pieces:
        raise ValueError("logits over pieces are wanted; load the encoder with pieces=True")


def _layer(parts: Anatomy, number: int) -> nn.Module:
    return parts.layers[number - 1] if number else parts.embeddings
