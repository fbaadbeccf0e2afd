"""From drawn texts to batches of tensors, of one length and under one token budget.

Texts are drawn in large blocks, sorted by length and cut into batches: texts x the tokens each is
padded to are at most `max_batch_tokens`, though a batch holds one text at least. For parallel text
each side keeps that budget. The batches of a block come in random order; all of it depends on
(seed, block) alone, so a run resumes at a `Cursor` without replaying what came before it.

Of several processes each takes every so-manieth block, so that no text is tokenized twice.
"""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from app.errors import LightMBERTError
from distill.corpus import ALONE, Share, Text
from distill.masking import NOT_ASKED, MaskedIds, Masking

BLOCK_TEXTS = 8192
MULTIPLE = 8
"""Rows are as long as a multiple of it: compiled graphs and allocators like few shapes."""
APART = 2**62
"""Number of a block that no run comes to."""
PADDING = 0
"""Fills rows up; which id it is makes no difference, because the mask hides it."""

Ids = list[int]


class TokenizerError(LightMBERTError):
    """A tokenizer.json is missing or malformed."""

    code = "bad_tokenizer"


@dataclass(frozen=True)
class Tokens:
    """Token ids and mask of some texts, (B, T) each; the mask is true on real tokens."""

    ids: Tensor
    mask: Tensor

    def every(self, step: int) -> "Tokens":
        """Every so many-th text, from the first."""
        return Tokens(self.ids[::step], self.mask[::step])

    def to(self, device: torch.device) -> "Tokens":
        return Tokens(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Masked:
    """Texts some of whose pieces are hidden, for the masked-language objectives."""

    ids: Tensor
    """(B, T) int64, as `Batch.text` but for the hidden pieces."""
    labels: Tensor
    """(B, T) int64: the piece that was there, or -100 where nothing is asked."""

    def to(self, device: torch.device) -> "Masked":
        return Masked(self.ids.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Batch:
    """What one step sees: texts for the student and, from parallel text, their English."""

    text: Tokens
    english: Tokens | None
    """English side in the student's tokens."""
    teacher_english: Tokens | None
    """English side in the teacher's own tokens."""
    languages: Tensor
    """(B,) int64 index into the corpus's languages."""
    masked: Masked | None = None
    """`text` with pieces hidden, where an objective asks for it."""

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.text.to(device),
            self.english and self.english.to(device),
            self.teacher_english and self.teacher_english.to(device),
            self.languages.to(device),
            self.masked and self.masked.to(device),
        )

    @property
    def padded_tokens(self) -> int:
        """Of the text and of its English, all of it, though a student may read it now and then."""
        return self.text.ids.numel() + (0 if self.english is None else self.english.ids.numel())


@dataclass(frozen=True)
class Cursor:
    """Where a process stands in its text: the next batch to be seen."""

    block: int = 0
    batch: int = 0
    place: str = ""
    """Where a stream stood before the block (see `distill.corpus.Text`)."""


def load_tokenizer(file: Path, *, max_tokens: int) -> Tokenizer:
    """A fast tokenizer, set to cut at `max_tokens` and not to pad.

    Training text is cut without a word: a sentence's beginning is as good a text to learn from.

    Raises:
        TokenizerError: the file is missing or no tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises the bare class
        raise TokenizerError(f"{file} is not a tokenizer: {error}") from error
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """Texts -> right-padded (B, T) tensors."""
    return padded(encode_ids(tokenizer, texts), room=_room(tokenizer))


def encode_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Ids]:
    """Token ids of each text, special tokens included."""
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]


def padded(encoded: Sequence[Ids], *, room: int | None = None) -> Tokens:
    """Token ids of B texts -> right-padded (B, T) tensors.

    T is the longest text's length or, where `room` tells how many tokens fit, the next multiple of
    `MULTIPLE` within it: an encoder has no position beyond the tokens its texts were cut at.
    """
    lengths = np.array([len(ids) for ids in encoded])
    mask = np.arange(int(_widths(lengths, room).max())) < lengths[:, None]
    ids = np.full(mask.shape, PADDING, dtype=np.int64)
    ids[mask] = np.concatenate(encoded)
    return Tokens(torch.from_numpy(ids), torch.from_numpy(mask))


def _room(tokenizer: Tokenizer) -> int | None:
    """Where a tokenizer cuts, if it does."""
    cut = tokenizer.truncation
    return int(cut["max_length"]) if cut else None


def _widths(lengths: np.ndarray, room: int | None) -> np.ndarray:
    """What texts of these lengths are padded to."""
    if room is None:
        return lengths
    widths: np.ndarray = np.minimum(-(-lengths // MULTIPLE) * MULTIPLE, room)
    return widths


@dataclass(frozen=True)
class _Block:
    """Drawn rows as token ids; the English sides are empty where the corpus is not parallel."""

    number: int
    place: str
    """Where the text stood before it was drawn."""
    following: str
    """Where it stood after."""
    text: list[Ids]
    english: list[Ids]
    teacher_english: list[Ids]
    languages: list[int]
    masked: MaskedIds | None
    room: int | None
    """Tokens that fit into a row of the student's."""
    teacher_room: int | None

    def batch(self, rows: np.ndarray) -> Batch:
        def side(encoded: list[Ids], room: int | None) -> Tokens:
            return padded([encoded[row] for row in rows], room=room)

        masked = None
        if self.masked is not None:
            labels = side(self.masked.labels, self.room)
            asked = labels.ids.masked_fill(~labels.mask, NOT_ASKED)
            masked = Masked(side(self.masked.ids, self.room).ids, asked)
        return Batch(
            side(self.text, self.room),
            side(self.english, self.room) if self.english else None,
            side(self.teacher_english, self.teacher_room) if self.english else None,
            torch.tensor([self.languages[row] for row in rows]),
            masked,
        )

    def cuts(self, max_batch_tokens: int) -> list[np.ndarray]:
        """Row numbers of each batch: nearest lengths together, under the budget."""
        sides = [(self.text, self.room)]
        if self.english:
            sides += [(self.english, self.room), (self.teacher_english, self.teacher_room)]
        lengths = [np.array([len(ids) for ids in side]) for side, _ in sides]
        widths = [_widths(of_side, room) for of_side, (_, room) in zip(lengths, sides, strict=True)]
        order = np.argsort(np.max(lengths, axis=0), kind="stable")
        widest = np.maximum.accumulate(np.max(widths, axis=0)[order])
        cuts: list[np.ndarray] = []
        start = 0
        for end in range(1, len(order)):
            if widest[end] * (end + 1 - start) > max_batch_tokens:
                cuts.append(order[start:end])
                start = end
        return [*cuts, order[start:]]


class Batches:
    """Batches of a text from a cursor on, without end."""

    def __init__(
        self,
        text: Text,
        student_tokenizer: Tokenizer,
        teacher_tokenizer: Tokenizer,
        *,
        max_batch_tokens: int,
        seed: int,
        masking: Masking | None = None,
        share: Share = ALONE,
    ) -> None:
        self._text = text
        self._student_tokenizer = student_tokenizer
        self._teacher_tokenizer = teacher_tokenizer
        self._max_batch_tokens = max_batch_tokens
        self._seed = seed
        self._masking = masking
        self._share = share

    def first(self) -> Cursor:
        """Where this process begins."""
        return Cursor(self._share.process, 0, self._text.place())

    def since(self, cursor: Cursor) -> Iterator[tuple[Cursor, Batch]]:
        """Yield (cursor after this batch, batch) for ever.

        While a block is trained on, a thread draws and tokenizes the next: neither needs Python's
        lock for long, and a device that waits for text is a device half used.
        """
        self._text.go_to(cursor.place)
        skip = cursor.batch
        numbers = itertools.count(cursor.block, self._share.processes)
        with ThreadPoolExecutor(1) as drawing:
            coming = drawing.submit(self._block, next(numbers))
            while True:
                block = coming.result()
                coming = drawing.submit(self._block, next(numbers))
                yield from self._of_block(block, skip)
                skip = 0

    def _of_block(self, block: _Block, skip: int) -> Iterator[tuple[Cursor, Batch]]:
        cuts = block.cuts(self._max_batch_tokens)
        order = np.random.default_rng([self._seed, block.number]).permutation(len(cuts))
        following = Cursor(block.number + self._share.processes, 0, block.following)
        for done, index in enumerate(order[skip:], start=skip + 1):
            inside = Cursor(block.number, done, block.place)
            yield inside if done < len(order) else following, block.batch(cuts[index])

    def apart(self, cursor: Cursor, *, texts: int = 256) -> Batch:
        """One batch of texts drawn by a number that training does not reach; for measuring.

        Of a stream, those that come after the block in which training stands.
        """
        self._text.go_to(cursor.place)
        if cursor.place and cursor.batch:
            self._text.draw(cursor.block, rows=BLOCK_TEXTS, seed=self._seed)
        return self._block(APART, texts=texts).batch(np.arange(texts))

    def _block(self, number: int, *, texts: int | None = None) -> _Block:
        place = self._text.place()
        rows = self._text.draw(number, rows=texts or BLOCK_TEXTS, seed=self._seed)
        text = encode_ids(self._student_tokenizer, rows.texts)
        return _Block(
            number=number,
            place=place,
            following=self._text.place(),
            text=text,
            english=encode_ids(self._student_tokenizer, rows.english),
            teacher_english=encode_ids(self._teacher_tokenizer, rows.english),
            languages=rows.languages,
            masked=None
            if self._masking is None
            else self._masking.mask(text, seed=[self._seed, number]),
            room=_room(self._student_tokenizer),
            teacher_room=_room(self._teacher_tokenizer),
        )
