"""From drawn texts to batches of tensors, of one length and under one token budget.

Texts are drawn in large blocks, sorted by length and cut into batches of at most
`max_batch_tokens` padded tokens; the batches of a block come in random order. Both depend on
(seed, block) alone, so a run resumes at a `Cursor` without replaying what came before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from distill.corpus import Corpus, Rows

BLOCK_TEXTS = 8192


@dataclass(frozen=True)
class Tokens:
    """Token ids and mask of some texts, (B, T) each; the mask is true on real tokens."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> "Tokens":
        return Tokens(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Batch:
    """What one step sees: texts for the student and, from parallel text, their English."""

    text: Tokens
    english: Tokens | None
    """English side in the student's tokens."""
    teacher_english: Tokens | None
    """English side in the teacher's own tokens."""

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.text.to(device),
            self.english and self.english.to(device),
            self.teacher_english and self.teacher_english.to(device),
        )

    @property
    def padded_tokens(self) -> int:
        return self.text.ids.numel() + (0 if self.english is None else self.english.ids.numel())


@dataclass(frozen=True)
class Cursor:
    """Where a run stands in its text: the next batch to be seen."""

    block: int = 0
    batch: int = 0


def load_tokenizer(file: Path, *, max_tokens: int) -> Tokenizer:
    """A fast tokenizer, set to cut at `max_tokens` and not to pad.

    Training text is cut without a word: a sentence's beginning is as good a text to learn from.
    """
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """Texts -> right-padded (B, T) tensors; the pad id is that of [PAD]."""
    encoded = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    return _padded(encoded, tokenizer.token_to_id("[PAD]"))


def _padded(encoded: Sequence[Sequence[int]], pad_id: int) -> Tokens:
    # A multiple of 8 keeps the number of shapes small: compiled graphs and allocators like that.
    longest = -(-max(map(len, encoded)) // 8) * 8
    ids = np.full((len(encoded), longest), pad_id, dtype=np.int64)
    for row, tokens in zip(ids, encoded, strict=True):
        row[: len(tokens)] = tokens
    lengths = np.array([len(tokens) for tokens in encoded])
    mask = np.arange(longest) < lengths[:, None]
    return Tokens(torch.from_numpy(ids), torch.from_numpy(mask))


class Batches:
    """Batches of a corpus from a cursor on, without end."""

    def __init__(
        self,
        corpus: Corpus,
        student_tokenizer: Tokenizer,
        teacher_tokenizer: Tokenizer,
        *,
        max_batch_tokens: int,
        seed: int,
    ) -> None:
        self._corpus = corpus
        self._student_tokenizer = student_tokenizer
        self._teacher_tokenizer = teacher_tokenizer
        self._max_batch_tokens = max_batch_tokens
        self._seed = seed

    def since(self, cursor: Cursor) -> Iterator[tuple[Cursor, Batch]]:
        """Yield (cursor after this batch, batch) for ever."""
        block, skip = cursor.block, cursor.batch
        while True:
            rows = self._corpus.draw(block, rows=BLOCK_TEXTS, seed=self._seed)
            cuts = self._cuts(rows, block)
            for number in range(skip, len(cuts)):
                after = Cursor(block, number + 1) if number + 1 < len(cuts) else Cursor(block + 1)
                yield after, self._batch(rows, cuts[number])
            block, skip = block + 1, 0

    def _cuts(self, rows: Rows, block: int) -> list[np.ndarray]:
        """Row numbers of each batch: nearest lengths together, under the budget."""
        encode = self._student_tokenizer.encode_batch_fast
        lengths = np.array([len(encoding.ids) for encoding in encode(rows.texts)])
        if rows.english:
            lengths = np.maximum(lengths, [len(e.ids) for e in encode(rows.english)])
        cuts: list[np.ndarray] = []
        start = 0
        order = np.argsort(lengths, kind="stable")
        for end in range(1, len(order) + 1):
            if (
                end == len(order)
                or lengths[order[end]] * (end + 1 - start) > self._max_batch_tokens
            ):
                cuts.append(order[start:end])
                start = end
        rng = np.random.default_rng([self._seed, block])
        return [cuts[index] for index in rng.permutation(len(cuts))]

    def _batch(self, rows: Rows, numbers: np.ndarray) -> Batch:
        text = tokenize(self._student_tokenizer, [rows.texts[i] for i in numbers])
        if not rows.english:
            return Batch(text, None, None)
        english = [rows.english[i] for i in numbers]
        return Batch(
            text,
            tokenize(self._student_tokenizer, english),
            tokenize(self._teacher_tokenizer, english),
        )
