"""Train a multilingual tokenizer: BPE or Unigram.

Neither needs a list of word boundaries, which Thai, Chinese and Japanese do not write. Text is
normalised to NFKC and lower case, so that one table row serves every casing: a small table has
no rows to spare.

BPE (Sennrich et al. 2016, arXiv:1508.07909) merges by how often pairs occur. The trainer of
Unigram (Kudo 2018, arXiv:1804.10959) in `tokenizers` takes its first candidates from the list of
distinct words, not from the text: a word that no other word contains, such as most syllables of
Vietnamese, is never one, however frequent it is.
"""

from collections.abc import Iterable
from typing import Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, UnigramTrainer

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = [PAD, UNKNOWN, CLS, SEP, MASK]


LONGEST_PIECE = 16
"""Characters."""
BPE_ALPHABET = 9_000
"""Characters that are pieces by themselves: those of CJK texts are many, and most of them rare."""

Kind = Literal["bpe", "unigram"]


def train_tokenizer(texts: Iterable[str], *, kind: Kind, vocabulary: int) -> Tokenizer:
    """A fast tokenizer of at most `vocabulary` pieces, special tokens included.

    `[CLS]` and `[SEP]` frame each text as BERT's tokenizer does; `[PAD]` is id 0.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN) if kind == "bpe" else models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        # Not "first": that asks for the first of the unstripped text, and finds a space there.
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = _bpe(vocabulary) if kind == "bpe" else _unigram(vocabulary)
    tokenizer.train_from_iterator(texts, trainer)
    cls_id, sep_id = tokenizer.token_to_id(CLS), tokenizer.token_to_id(SEP)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, cls_id), (SEP, sep_id)],
    )
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(PAD), pad_token=PAD)
    return tokenizer


def _bpe(vocabulary: int) -> BpeTrainer:
    return BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        limit_alphabet=min(BPE_ALPHABET, vocabulary),
        max_token_length=LONGEST_PIECE,
        show_progress=False,
    )


def _unigram(vocabulary: int) -> UnigramTrainer:
    return UnigramTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        unk_token=UNKNOWN,
        max_piece_length=LONGEST_PIECE,
        shrinking_factor=0.75,
        show_progress=False,
    )
