"""Verb: average the weights of encoders that were trained from one another.

    lightmbert distill average distill/recipes/average.toml

Model soups (Wortsman et al. 2022, arXiv:2203.05482), with shares that the recipe gives where the
paper has equal ones or chooses greedily. Heads of any kind stay behind: each was fitted to one of
them, and `finetune` fits new ones. The result is `encoder` in the folder of the run.
"""

import json
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from distill.anatomy import Encoder
from distill.batches import load_tokenizer
from distill.checkpoint import read_provenance, save_encoder
from distill.config import LoadedRecipe, require
from distill.student import FACTORS
from distill.tables.average import AverageTable
from distill.teacher import EncoderError, load_encoder, tokenizer_file

BOOKKEEPING = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
"""Of a configuration; it says nothing of how an encoder computes."""


def averaged(table: AverageTable) -> Encoder:
    """An encoder whose every weight is the mean of theirs.

    Raises:
        EncoderError: one is missing, broken, computes otherwise, or reads text otherwise.
    """
    first, *others = table.encoders
    result = load_encoder(first)
    sums = _share_of(table.shares[0], result, first)
    for name, share in zip(others, table.shares[1:], strict=True):
        encoder = load_encoder(name)
        _check_alike(result, encoder, f"{first} and {name}")
        if _reading(first) != _reading(name):
            raise EncoderError(f"{first} and {name} have different tokenizers")
        for key, weight in _share_of(share, encoder, name).items():
            sums[key] += weight
    result.load_state_dict(sums)
    return result


def _share_of(share: float, encoder: Encoder, name: str) -> dict[str, Tensor]:
    """In float64, so that what is the same in all of them stays the same."""
    weights = {key: share * weight.double() for key, weight in encoder.state_dict().items()}
    if broken := [key for key, weight in weights.items() if not weight.isfinite().all()]:
        raise EncoderError(f"{name} has undefined numbers in {broken[0]}")
    return weights


def _check_alike(one: Encoder, other: Encoder, names: str) -> None:
    configs = [encoder.config.to_dict() for encoder in (one, other)]
    for key in sorted({*configs[0], *configs[1]} - BOOKKEEPING):
        values = [config.get(key) for config in configs]
        if values[0] != values[1]:
            raise EncoderError(f"{names} differ in {key}: {values[0]} and {values[1]}")
    weights = [encoder.state_dict() for encoder in (one, other)]
    for key in sorted({*weights[0], *weights[1]}):
        pair = [state.get(key) for state in weights]
        if pair[0] is None or pair[1] is None or pair[0].shape != pair[1].shape:
            raise EncoderError(f"{names} differ in the shape of {key}")
        # Factors can be turned without changing their product, and then have no mean.
        if key == FACTORS and not torch.equal(pair[0], pair[1]):
            raise EncoderError(f"{names} have word tables of different factors: {key}")


def _reading(encoder: str) -> object:
    """What a tokenizer does, but for cutting and padding."""
    tokenizer = load_tokenizer(tokenizer_file(encoder), max_tokens=1)
    tokenizer.no_truncation()
    return json.loads(tokenizer.to_str())


def run(loaded: LoadedRecipe) -> None:
    """Average what the recipe's `[average]` table names.

    Raises:
        EncoderError: see `averaged`; or one of them lies where the result goes.
    """
    table = require(loaded.recipe.average, "average")
    folder = loaded.recipe.run.folder / "encoder"
    if folder.resolve() in {Path(name).resolve() for name in table.encoders}:
        raise EncoderError(f"{folder} is averaged, and the result would take its place")
    result = averaged(table)
    origins = [read_provenance(name) for name in table.encoders]
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_encoder(
        folder,
        result,
        tokenizer_file(table.encoders[0]),
        provenance=_joined(origins),
    )
    Console().print(f"{folder}: the mean of {len(table.encoders)} encoders")


def _joined(origins: list[dict[str, str] | None]) -> dict[str, str]:
    """Whom they learned from, and all that they saw."""
    keys = dict.fromkeys(key for origin in origins for key in origin or {})
    told = {
        key: dict.fromkeys((origin or {}).get(key, "unknown") for origin in origins) for key in keys
    }
    return {key: "+".join(values) for key, values in told.items()}
