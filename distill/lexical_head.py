"""A classification head on the pieces of a text: each has a row of evidence, and rows add up.

Embeddings whose languages are aligned hardly tell which language a text is in; its pieces do. They
are looked up by their ids, so the head knows one tokenizer and keeps its name.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from distill.batches import Tokens
from distill.stated import HeadError, Stated


@dataclass(frozen=True, kw_only=True)
class LexicalHead(Stated):
    """A row of evidence for each of V pieces: what its standing in a text says of C labels.

    Raises:
        HeadError: the table does not fit the labels, or the task cannot be stated in a manifest.
    """

    table: Tensor
    """(V, C) float32; rows of pieces that say nothing, as special tokens, are 0."""
    vocabulary: str
    """Of the tokenizer whose pieces it knows (see `vocabulary_of`)."""

    def __post_init__(self) -> None:
        classes = len(self.labels)
        if self.table.ndim != 2 or self.table.shape[1] != classes:
            raise HeadError(
                f"head {self.task!r} has {classes} labels and a table {tuple(self.table.shape)}; "
                f"it needs (V, {classes})"
            )
        if self.table.dtype != torch.float32:
            raise HeadError(f"head {self.task!r} is {self.table.dtype}; it must be float32")
        super().__post_init__()

    def as_layer(self) -> "LexicalLayer":
        """Return the layer from ids and mask (B, T) to logits (B, C), with a copied table."""
        return LexicalLayer(self.table.clone())

    def require_fit(self, tokenizer: Tokenizer, *, rows: int) -> None:
        """Refuse a tokenizer of other pieces, or an encoder whose word table has other `rows`.

        Raises:
            HeadError: it is not the one that the head was fitted on.
        """
        if len(self.table) != rows:
            raise HeadError(
                f"head {self.task!r} knows {len(self.table)} pieces; the encoder's table has {rows}"
            )
        if self.vocabulary != (found := vocabulary_of(tokenizer)):
            raise HeadError(
                f"head {self.task!r} was fitted on the pieces of another tokenizer "
                f"({self.vocabulary}) than the encoder's ({found}): fit it again"
            )

    def trimmed(self, tokenizer: Tokenizer, old_ids: Sequence[int]) -> "LexicalHead":
        """Return the head of a smaller tokenizer, whose id n was `old_ids[n]`."""
        return replace(self, table=self.table[list(old_ids)], vocabulary=vocabulary_of(tokenizer))

    def __call__(self, tokens: Tokens) -> Tensor:
        """Return logits (B, C) of token ids (B, T)."""
        return evidence(self.table, tokens.ids, tokens.mask)


class LexicalLayer(nn.Module):
    """A lexical head as it is traced."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return evidence(self.table, input_ids, attention_mask)


def evidence(table: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Sum the rows (V, C) of the real tokens of ids and mask (B, T): (B, C)."""
    rows = functional.embedding(ids, table)  # (B, T, C)
    return (rows * mask.unsqueeze(-1).to(rows.dtype)).sum(dim=1)


def require_room(tokenizer: Tokenizer, *, rows: int) -> None:
    """Refuse a tokenizer with ids beyond a table of so many rows.

    Raises:
        HeadError: it has some.
    """
    if (last := max(tokenizer.get_vocab().values())) >= rows:
        raise HeadError(f"the tokenizer has id {last}; the encoder's table has {rows} rows")


def vocabulary_of(tokenizer: Tokenizer) -> str:
    """Short hash of which piece has which id."""
    pieces = sorted((number, piece) for piece, number in tokenizer.get_vocab().items())
    return hashlib.sha256(repr(pieces).encode()).hexdigest()[:16]
