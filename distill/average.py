"""Verb: average the weights of encoders that were trained from one another.

    lightmbert distill average recipe.toml

Model soups (Wortsman et al. 2022, arXiv:2203.05482), with shares that the recipe gives where the
paper has equal ones or chooses greedily. Heads of any kind stay behind: each was fitted to one of
them, and `finetune` fits new ones. The result is `encoder` in the folder of the run.
"""

import json
from pathlib import Path

import torch
from rich.console import Console
from tokenizers import Tokenizer

from distill.anatomy import Encoder
from distill.checkpoint import PROVENANCE_FILE, save_encoder
from distill.config import LoadedRecipe, require
from distill.tables.average import AverageTable
from distill.teacher import EncoderError, load_encoder, tokenizer_file, vocabularies_agree


def averaged(table: AverageTable) -> Encoder:
    """An encoder whose every weight is the mean of theirs, in float32.

    Raises:
        EncoderError: one is missing, of another shape, or gives pieces other ids.
    """
    first, *others = table.encoders
    result = load_encoder(first)
    pieces = _tokenizer(first)
    sums = {name: table.shares[0] * weight for name, weight in result.state_dict().items()}
    for encoder, share in zip(others, table.shares[1:], strict=True):
        weights = load_encoder(encoder).state_dict()
        if unlike := _unlike(sums, weights):
            raise EncoderError(f"{encoder} is of another shape than {first}: {unlike}")
        if not vocabularies_agree(pieces, _tokenizer(encoder)):
            raise EncoderError(f"{encoder} and {first} give pieces different ids")
        for name, weight in weights.items():
            sums[name] += share * weight
    result.load_state_dict(sums)
    return result


def _unlike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> str:
    """The first weight that only one has, or that has two shapes; empty if there is none."""
    for name in sorted(one.keys() | other.keys()):
        shapes = [list(state[name].shape) if name in state else None for state in (other, one)]
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]}, not {shapes[1]}"
    return ""


def _tokenizer(encoder: str) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_file(encoder)))


def run(loaded: LoadedRecipe) -> None:
    """Average what the recipe's `[average]` table names."""
    table = require(loaded.recipe.average, "average")
    first = table.encoders[0]
    origin = Path(first) / PROVENANCE_FILE
    folder = loaded.recipe.run.folder / "encoder"
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_encoder(
        folder,
        averaged(table),
        tokenizer_file(first),
        provenance=json.loads(origin.read_bytes()) if origin.is_file() else None,
    )
    Console().print(f"{folder}: the mean of {len(table.encoders)} encoders")
