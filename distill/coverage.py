"""Which pieces of a vocabulary some languages need.

Load What You Need (Abdaoui et al. 2020, arXiv:2010.05609): a piece stays if it occurs in at least
a share of the lines of one of the wanted languages. Beyond the paper, so that rare words of those
languages break up rather than turn unknown: every single character their text holds stays, at the
beginning of words and inside of them, as do digits, punctuation, symbols and bytes.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from tokenizers import Tokenizer, pre_tokenizers

Item = TypeVar("Item")

CHUNK_TEXTS = 1000
MARKS = ("##", "▁", "Ġ")
"""What pieces begin with to say whether they begin a word: WordPiece, Metaspace, bytes."""
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
ALWAYS = frozenset("NPS")
"""Initials of the Unicode categories of numbers, punctuation and symbols."""


def line_shares(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[int, float]:
    """Piece id -> share of the texts that it occurs in, for those that occur at all."""
    counts: Counter[int] = Counter()
    total = 0
    for chunk in chunks(texts):
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            counts.update(set(encoding.ids))
        total += len(chunk)
    return {piece: count / total for piece, count in counts.items()}


def needed_pieces(
    tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]], *, min_share: float
) -> set[int]:
    """Ids of the pieces that languages need.

    Args:
        tokenizer: a whole one, that neither cuts nor pads.
        texts: language -> its texts.
        min_share: of a language's texts that a piece must occur in, to stay for its sake.
    """
    names = {index: piece for piece, index in tokenizer.get_vocab().items()}
    needed: set[int] = set()
    alphabet: set[str] = set()
    for of_language in texts.values():
        shares = line_shares(tokenizer, of_language)
        needed |= {piece for piece, share in shares.items() if share >= min_share}
        alphabet.update(character for piece in shares for character in _bare(names[piece]))
    needed |= {index for index, piece in names.items() if _is_basic(piece, alphabet)}
    return needed | _byte_alphabet(tokenizer)


def chunks(texts: Iterable[Item]) -> Iterator[list[Item]]:
    """Texts in lists of CHUNK_TEXTS, which is what the tokenizer takes at once."""
    rest = iter(texts)
    while chunk := list(islice(rest, CHUNK_TEXTS)):
        yield chunk


def _is_basic(piece: str, alphabet: set[str]) -> bool:
    bare = _bare(piece)
    if len(bare) > 1:
        return BYTE.fullmatch(bare) is not None
    # an empty one is a mark alone: a word may break up into it and what follows
    return not bare or bare in alphabet or unicodedata.category(bare)[0] in ALWAYS


def _bare(piece: str) -> str:
    for mark in MARKS:
        if piece.startswith(mark):
            return piece.removeprefix(mark)
    return piece


def _byte_alphabet(tokenizer: Tokenizer) -> set[int]:
    """The 256 characters that stand for bytes, where a tokenizer has all of them as pieces."""
    ids = [tokenizer.token_to_id(character) for character in pre_tokenizers.ByteLevel.alphabet()]
    return set() if None in ids else set(ids)
