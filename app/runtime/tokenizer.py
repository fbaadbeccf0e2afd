"""Text to token ids, with the facts of truncation, and ids to padded arrays.

Truncation is decided here and not by the tokenizer's own settings, so that it is refused or
reported, never silent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import tokenizers
from numpy.typing import NDArray

from app.errors import InputError, ManifestError, TextTooLongError

Text = str | tuple[str, str]
"""One text, or a pair such as (premise, hypothesis)."""
Ids = NDArray[np.int64]
Cut = Literal["end", "beginning"]
"""Which end of a text goes when it is too long."""

_CHARACTERS_PER_TOKEN = 16
"""A first look at a text takes in this many characters per token the model accepts."""


@dataclass(frozen=True, eq=False, slots=True)
class Encoded:
    """One text as the model reads it: special tokens included, no padding."""

    ids: Ids
    """(T,)"""
    type_ids: Ids
    """(T,): 1 for the tokens of a pair's second text."""
    truncated: bool
    pad_id: int
    """What fills the row up to its longest neighbour."""

    @property
    def tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Token:
    """One token, and where in its text it stands."""

    id: int
    text: str
    """The part of the text; of a special token its name."""
    special: bool
    start: int | None
    stop: int | None
    """In bytes of UTF-8; None for special tokens."""


class Tokenizer:
    """The student's tokenizer, with the student's token limit."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, max_tokens: int, pad_id: int) -> None:
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._pad_id = pad_id

    @classmethod
    def load(cls, path: Path, *, max_tokens: int) -> Self:
        """Read a `tokenizer.json`.

        Raises:
            ManifestError: the file is no tokenizer, or has no token to pad with.
        """
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises the bare class
            raise ManifestError(f"{path} is not a tokenizer: {error}") from error
        padding = tokenizer.padding
        pad_id = padding["pad_id"] if padding else tokenizer.token_to_id("[PAD]")
        if pad_id is None:
            raise ManifestError(f"{path} sets no padding and has no [PAD] token")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(tokenizer, max_tokens=max_tokens, pad_id=pad_id)

    def encode(self, texts: Sequence[Text], *, truncate: bool, cut: Cut = "end") -> list[Encoded]:
        """One `Encoded` per text, in order. Of texts that are too long, the `cut` end goes.

        Raises:
            TextTooLongError: a text exceeds `max_tokens` and `truncate` is off.
        """
        characters = self.max_tokens * _CHARACTERS_PER_TOKEN
        encodings = self._encodings([_part(text, characters, cut) for text in texts])
        return [
            self._encoded(index, text, encoding, cut, truncate=truncate)
            for index, (text, encoding) in enumerate(zip(texts, encodings, strict=True))
        ]

    def tokens(self, text: str, *, special: bool) -> list[Token]:
        """All tokens of a text, however many; with those that frame it if `special`."""
        encoding = self._tokenizer.encode(text, add_special_tokens=special)
        at = _byte_places(text)
        return [
            Token(each, name, True, None, None)
            if framing
            else Token(each, text[start:stop], False, int(at[start]), int(at[stop]))
            for each, name, framing, (start, stop) in zip(
                encoding.ids,
                encoding.tokens,
                encoding.special_tokens_mask,
                encoding.offsets,
                strict=True,
            )
        ]

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        """The text of these tokens; with the names of special ones if `special`.

        Raises:
            InputError: an id is none of this tokenizer's.
        """
        known = self._tokenizer.get_vocab_size()
        for place, each in enumerate(ids):
            if not 0 <= each < known:
                raise InputError(f"token {place} is {each}; this model has 0 to {known - 1}")
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=not special)
        return text

    def _encodings(self, texts: Sequence[Text]) -> list[Any]:
        if len(texts) != 1:
            return list(self._tokenizer.encode_batch_fast(texts))
        [text] = texts  # alone it is done sooner than the interpreter's lock is given up and back
        parts = (text,) if isinstance(text, str) else text
        return [self._tokenizer.encode(*parts)]

    def _encoded(
        self,
        index: int,
        text: Text,
        encoding: Any,  # noqa: ANN401 - tokenizers is untyped
        cut: Cut,
        *,
        truncate: bool,
    ) -> Encoded:
        encoding, whole = self._look_further(text, encoding, cut)
        ids, type_ids = np.array(encoding.ids), np.array(encoding.type_ids)
        truncated = len(ids) > self.max_tokens
        if truncated:
            if not truncate:
                raise TextTooLongError(
                    index=index, tokens=len(ids), limit=self.max_tokens, or_more=not whole
                )
            kept = longest_first(encoding.sequence_ids, self.max_tokens, cut)
            ids, type_ids = ids[kept], type_ids[kept]
        return Encoded(ids, type_ids, truncated, self._pad_id)

    def _look_further(self, text: Text, encoding: Any, cut: Cut) -> tuple[Any, bool]:  # noqa: ANN401 - tokenizers is untyped
        """Lengthen the part until it is the whole text or certainly too long.

        Twice the limit is certain: the word where the part breaks off is far from what
        truncation keeps. So a huge text costs what that part costs, and a text that is
        long only in spaces is still counted exactly.
        """
        characters = self.max_tokens * _CHARACTERS_PER_TOKEN
        while not (whole := _is_within(text, characters)) and len(encoding) < 2 * self.max_tokens:
            characters *= 2
            [encoding] = self._tokenizer.encode_batch_fast([_part(text, characters, cut)])
        return encoding, whole


def longest_first(
    sequence_ids: Sequence[int | None], max_tokens: int, cut: Cut = "end"
) -> NDArray[np.bool_]:
    """Which tokens stay, (T,): the `cut` ends go, of the longer text first; special tokens stay.

    Args:
        sequence_ids: per token 0 or 1 for the text it comes from, None for special tokens.
        max_tokens: how many tokens may stay. At least the special tokens do.
        cut: which end of each text goes.
    """
    owner = np.array([2 if sequence is None else sequence for sequence in sequence_ids])
    first, second, special = np.bincount(owner, minlength=3)
    room = max(0, max_tokens - special)
    keep_second = min(second, max(room // 2, room - first))
    keep_first = min(first, room - keep_second)
    kept: NDArray[np.bool_] = owner == 2
    for text, there, keep in ((0, first, keep_first), (1, second, keep_second)):
        begin = there - keep if cut == "beginning" else 0
        kept[np.flatnonzero(owner == text)[begin : begin + keep]] = True
    return kept


def pad(encoded: Sequence[Encoded]) -> dict[str, Ids]:
    """Graph inputs, each (B, T), padded on the right to the longest text."""
    shape = (len(encoded), max(each.tokens for each in encoded))
    input_ids = np.full(shape, encoded[0].pad_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    token_type_ids = np.zeros(shape, dtype=np.int64)
    for row, each in enumerate(encoded):
        input_ids[row, : each.tokens] = each.ids
        attention_mask[row, : each.tokens] = 1
        token_type_ids[row, : each.tokens] = each.type_ids
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "token_type_ids": token_type_ids,
    }


def _part(text: Text, characters: int, cut: Cut) -> Text:
    """So many characters at most, of a pair of each text, from the end that stays."""
    part = slice(characters) if cut == "end" else slice(-characters, None)
    return text[part] if isinstance(text, str) else (text[0][part], text[1][part])


def _byte_places(text: str) -> NDArray[np.int64]:
    """Where each character begins in UTF-8, and where the last ends: (characters + 1,)."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    sizes = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate(([0], np.cumsum(sizes)))


def _is_within(text: Text, characters: int) -> bool:
    longest = len(text) if isinstance(text, str) else max(len(text[0]), len(text[1]))
    return longest <= characters
