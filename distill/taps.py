"""Hooks that fetch what an objective needs from inside an encoder, and nothing else.

Attention libraries hand out no scores, so LightMBERT's objective is computed from the last
layer's queries and keys, caught as they leave their linear layers.
"""

from torch import Tensor, nn
from transformers import BertModel

from distill.objectives.lightmbert import QueryKey


class QueryKeyTap:
    """Catches the last layer's queries and keys of every forward pass until removed."""

    def __init__(self, encoder: BertModel) -> None:
        attention = encoder.encoder.layer[-1].attention.self
        self._heads: int = attention.num_attention_heads
        self._caught: dict[str, Tensor] = {}
        self._handles = [
            getattr(attention, name).register_forward_hook(self._catch(name))
            for name in ("query", "key")
        ]

    def _catch(self, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a torch hook
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._caught[name] = output

        return hook

    def take(self) -> QueryKey:
        """The last forward's queries and keys, (B, A, T, K) each; they are let go of here."""
        return QueryKey(
            self._split(self._caught.pop("query")), self._split(self._caught.pop("key"))
        )

    def _split(self, projected: Tensor) -> Tensor:
        texts, tokens, width = projected.shape
        return projected.view(texts, tokens, self._heads, width // self._heads).transpose(1, 2)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
