"""Cut an encoder's word table, and whatever else has an entry per piece, to some rows."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from distill.anatomy import PIECE_HEAD, Encoder, anatomy
from distill.trimming import TrimError

BY_PADDING = ("roberta", "xlm-roberta")
"""Families that count positions from the id of padding."""
PLACES = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")


def keep_rows(encoder: Encoder, old_ids: Sequence[int]) -> None:
    """Make row n of the word table its old row `old_ids[n]`, in place; the config follows.

    A factorised table is cut in its factor of a row per piece, and shares the other.

    Raises:
        TrimError: an id is beyond the table, or a family that counts positions from the id of
            padding would have another one.
    """
    facts = anatomy(encoder)
    if max(old_ids) >= facts.vocabulary:
        raise TrimError(
            f"the tokenizer has id {max(old_ids)}; the encoder's table has {facts.vocabulary} rows"
        )
    new_ids = {old: new for new, old in enumerate(old_ids)}
    padding: int | None = encoder.config.pad_token_id
    moved = None if padding is None else new_ids.get(padding)
    if facts.family in BY_PADDING and moved != padding:
        raise TrimError(
            f"padding would move from id {padding} to {moved}, and {facts.family} counts "
            "positions from it"
        )
    rows = torch.tensor(old_ids)
    for part in facts.word_table.modules():
        if isinstance(part, nn.Embedding) and part.num_embeddings == facts.vocabulary:
            _keep(part, rows, new_ids)
    if (head := getattr(encoder, PIECE_HEAD, None)) is not None:
        head.bias = _cut(head.bias, rows)
        head.table = None if head.table is None else _cut(head.table, rows)
    _renumber(encoder.config, new_ids)


def _keep(table: nn.Embedding, rows: Tensor, new_ids: dict[int, int]) -> None:
    table.weight = _cut(table.weight, rows)
    table.num_embeddings = len(rows)
    if table.padding_idx is not None:
        table.padding_idx = new_ids.get(table.padding_idx)


def _cut(parameter: Tensor, rows: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach()[rows], requires_grad=parameter.requires_grad)


def _renumber(config: PretrainedConfig, new_ids: dict[int, int]) -> None:
    config.vocab_size = len(new_ids)
    for place in PLACES:
        name = f"{place}_token_id"
        if getattr(config, name, None) is not None:
            setattr(config, name, new_ids.get(getattr(config, name)))
