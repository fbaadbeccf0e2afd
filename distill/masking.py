"""Hide pieces of texts, for a model to find them again.

Devlin et al. 2019 (BERT), arXiv:1810.04805, section 3.1 and appendix A.1: 15 % of the pieces of
each text are asked for, one at least; of these 80 % become the mask piece, 10 % another piece
drawn at random, and 10 % stay. Special pieces are neither asked for nor drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from app.errors import LightMBERTError

ASKED = 0.15
HIDDEN, REPLACED = 0.8, 0.1
NOT_ASKED = -100
"""Label of a piece that is not asked for: what `torch.nn.functional.cross_entropy` passes over."""
MASK_PIECES = ("[MASK]", "<mask>")
SPECIAL_PIECES = frozenset(
    ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "</s>", "<pad>", "<unk>", "<bos>", "<eos>")
).union(MASK_PIECES)

OWN_CHANCE = 1
"""Parts the random numbers from those that drew the texts by the same seed."""

Ids = list[int]


class MaskingError(LightMBERTError):
    """A tokenizer has no piece to hide others behind."""

    code = "no_mask_piece"


@dataclass(frozen=True)
class MaskedIds:
    """Texts with pieces hidden, and what was there (`NOT_ASKED` elsewhere), one list a text."""

    ids: list[Ids]
    labels: list[Ids]


class Masking:
    """Hides pieces of one tokenizer's texts.

    Raises:
        MaskingError: the tokenizer has no mask piece.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary = tokenizer.get_vocab()
        masks = [vocabulary[piece] for piece in MASK_PIECES if piece in vocabulary]
        if not masks:
            raise MaskingError(f"the tokenizer has no mask piece; known: {', '.join(MASK_PIECES)}")
        added = tokenizer.get_added_tokens_decoder()
        special = {index for index, token in added.items() if token.special}
        special |= {vocabulary[piece] for piece in SPECIAL_PIECES if piece in vocabulary}
        self._mask = masks[0]
        self._special = np.array(sorted(special))
        self._plain = np.array(sorted(set(vocabulary.values()) - special))

    def mask(self, texts: Sequence[Ids], *, seed: Sequence[int]) -> MaskedIds:
        """Hide pieces of each text; a function of its arguments alone."""
        rng = np.random.default_rng([*seed, OWN_CHANCE])
        flat = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
        lengths = np.array([len(text) for text in texts])
        asked = self._asked(flat, lengths, rng)
        fate = rng.random(len(flat))
        ids = np.where(asked & (fate < HIDDEN), self._mask, flat)
        another = rng.choice(self._plain, size=len(flat))
        ids = np.where(asked & (fate >= HIDDEN) & (fate < HIDDEN + REPLACED), another, ids)
        labels = np.where(asked, flat, NOT_ASKED)
        ends = np.cumsum(lengths)[:-1]
        return MaskedIds(
            [part.tolist() for part in np.split(ids, ends)],
            [part.tolist() for part in np.split(labels, ends)],
        )

    def _asked(self, flat: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """True on the asked-for pieces: of each text those that drew its lowest numbers."""
        owner = np.repeat(np.arange(len(lengths)), lengths)
        plain = ~np.isin(flat, self._special)
        counts = np.bincount(owner[plain], minlength=len(lengths))
        wanted = np.where(counts > 0, np.maximum(1, np.rint(ASKED * counts)), 0)
        # Plain pieces first within each text, in random order: a piece's rank is its place there.
        order = np.lexsort((rng.random(len(flat)), ~plain, owner))
        rank = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        asked = np.zeros(len(flat), dtype=bool)
        asked[order] = rank < wanted[owner[order]]
        return asked
