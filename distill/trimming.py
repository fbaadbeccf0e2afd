"""A fast tokenizer with fewer pieces, that cuts as before whatever needs no others.

Trimmed to a set of pieces, closed as each model asks, a text is cut into the same pieces as
before if all of these were kept:

- WordPiece takes the longest piece that fits, and what was the longest of all is the longest of
  fewer. A word that was unknown as a whole may become known, never the other way round.
- Unigram takes the best sum of scores, and the best of all is the best of fewer. Scores stay.
  So does one piece of the least score, from which the score of an unknown character follows.
- BPE joins by rank. What a kept piece is joined from on the way is kept too, with its ranks in
  order, so each step that led to a kept piece is still the first that applies.

Ids close ranks in their old order. Added and special tokens always stay.

What is trimmed is the text of a tokenizer.json, with the digits of its scores as they are:
`tokenizers` reads a number to within a rounding, so that writing what it read may move it.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from app.errors import LightMBERTError
from distill.vocabulary import SPECIAL

Json = dict[str, Any]
SPECIAL_NAMES = frozenset({*SPECIAL, "<s>", "</s>", "<pad>", "<unk>", "<mask>", "<bos>", "<eos>"})


class TrimError(LightMBERTError):
    """A vocabulary cannot be trimmed as asked."""

    code = "not_trimmed"


@dataclass(frozen=True)
class Trimmed:
    """A tokenizer of fewer pieces, and which row of the old table each new id stands for."""

    text: str
    """Of its tokenizer.json."""
    old_ids: list[int]
    """New id -> old id, ascending."""

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_str(self.text)


def trimmed(text: str, kept: Collection[int]) -> Trimmed:
    """Keep the pieces of these ids, and those without which they would not be found.

    Args:
        text: of a tokenizer.json.
        kept: ids of pieces; those that it has no piece for are ignored.

    Raises:
        TrimError: the tokenizer's model is not WordPiece, Unigram or BPE.
    """
    spec: Json = json.loads(text, parse_float=_MARKED.format)
    kind = spec["model"]["type"]
    if kind not in _MODELS:
        raise TrimError(
            f"a tokenizer of kind {kind} cannot be trimmed; known: {', '.join(_MODELS)}"
        )
    all_ids = Tokenizer.from_str(text).get_vocab()
    ids = {*kept, *_special(spec, all_ids)} & set(all_ids.values())
    closed, rebuild = _MODELS[kind](spec["model"], ids)
    old_ids = sorted(closed)
    new_ids = {old: new for new, old in enumerate(old_ids)}
    rebuild(new_ids)
    for container, key in list(_places(spec)):
        container[key] = new_ids[container[key]]
    small = Trimmed(_UNMARK.sub(r"\1", json.dumps(spec, ensure_ascii=False)), old_ids)
    expected = {piece: new_ids[old] for piece, old in all_ids.items() if old in new_ids}
    if small.tokenizer.get_vocab() != expected:
        raise TrimError("the trimmed tokenizer numbers its pieces otherwise than its table")
    return small


def special_ids(text: str) -> set[int]:
    """Ids of what is no piece of a text, told by its tokenizer.json: what frames, fills, hides or
    stands for the unknown.
    """
    return set(_special(json.loads(text), Tokenizer.from_str(text).get_vocab()))


_MARKED = "\x00{}"
_UNMARK = re.compile(r'"\\u0000(-?[0-9][^"]*)"')
"""Finds what was marked, as JSON writes it."""


def _special(spec: Json, ids: Mapping[str, int]) -> Iterator[int]:
    """What frames, fills, hides or stands for the unknown."""
    yield from (container[key] for container, key in _places(spec))
    yield from (ids[name] for name in SPECIAL_NAMES & ids.keys())
    if (unknown := spec["model"].get("unk_token")) in ids:
        yield ids[unknown]


def _places(spec: Json) -> Iterator[tuple[Any, Any]]:
    """Where ids stand outside the model: what holds them, and under which key."""
    yield from ((token, "id") for token in spec["added_tokens"])
    if spec["padding"]:
        yield spec["padding"], "pad_id"
    processors = [spec["post_processor"] or {}]
    while processors:
        processor = processors.pop()
        processors += processor.get("processors", ())
        yield from ((processor[name], 1) for name in ("sep", "cls") if name in processor)
        for token in processor.get("special_tokens", {}).values():
            yield from ((token["ids"], place) for place in range(len(token["ids"])))


Renumber = Callable[[Mapping[int, int]], None]
Closed = tuple[set[int], Renumber]
"""The ids that stay, and what then rebuilds the model for their new numbers, in place."""


def _word_piece(model: Json, ids: set[int]) -> Closed:
    return ids, lambda new_ids: _renumber_vocab(model, new_ids)


def _unigram(model: Json, ids: set[int]) -> Closed:
    scores = [float(str(score).removeprefix(_MARKED.format(""))) for _, score in model["vocab"]]
    least = scores.index(min(scores))
    unknown = {model["unk_id"]} - {None}

    def rebuild(new_ids: Mapping[int, int]) -> None:
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new_ids]
        if unknown:
            model["unk_id"] = new_ids[model["unk_id"]]

    return ids | {least} | unknown, rebuild


def _bpe(model: Json, ids: set[int]) -> Closed:
    pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    names = {index: piece for piece, index in model["vocab"].items()}
    joins = _Joins(pairs, model)
    ancestors = {part for index in ids if index in names for part in joins.towards(names[index])}
    closed = ids | {model["vocab"][part] for part in ancestors if part in model["vocab"]}

    def rebuild(new_ids: Mapping[int, int]) -> None:
        _renumber_vocab(model, new_ids)
        left = model["vocab"]
        model["merges"] = [
            [one, other]
            for one, other in pairs
            if one in left and other in left and joins.joined(one, other) in left
        ]

    return closed, rebuild


_MODELS: dict[str, Callable[[Json, set[int]], Closed]] = {
    "WordPiece": _word_piece,
    "Unigram": _unigram,
    "BPE": _bpe,
}


class _Joins:
    """Ranked merges, and what a piece is joined from."""

    def __init__(self, pairs: list[tuple[str, ...]], model: Json) -> None:
        self._ranks = {pair: rank for rank, pair in reversed(list(enumerate(pairs)))}
        self._prefix = model.get("continuing_subword_prefix") or ""
        self._suffix = model.get("end_of_word_suffix") or ""

    def joined(self, one: str, other: str) -> str:
        return one + other.removeprefix(self._prefix)

    def towards(self, piece: str) -> Iterator[str]:
        """Every piece on the way from the characters to `piece`.

        Inside a word too, those are the steps that lead to it: no merge reached over its ends,
        or it would not be one of the word's pieces.
        """
        parts = self._characters(piece)
        yield from parts
        while ranked := [
            (self._ranks[pair], place)
            for place, pair in enumerate(pairwise(parts))
            if pair in self._ranks
        ]:
            _, place = min(ranked)
            parts[place : place + 2] = [self.joined(*parts[place : place + 2])]
            yield parts[place]

    def _characters(self, piece: str) -> list[str]:
        inside = bool(self._prefix) and piece.startswith(self._prefix)
        ends = bool(self._suffix) and piece.endswith(self._suffix)
        bare = piece.removeprefix(self._prefix) if inside else piece
        characters = list(bare.removesuffix(self._suffix) if ends else bare)
        first = 0 if inside else 1
        characters[first:] = [self._prefix + character for character in characters[first:]]
        if ends and characters:
            characters[-1] += self._suffix
        return characters


def _renumber_vocab(model: Json, new_ids: Mapping[int, int]) -> None:
    model["vocab"] = {
        piece: new_ids[old] for piece, old in model["vocab"].items() if old in new_ids
    }
