"""Train a multilingual Unigram tokenizer.

Unigram (Kudo 2018, arXiv:1804.10959) rather than WordPiece: it needs no list of word
boundaries, which Thai, Chinese and Japanese do not write. Text is normalised to NFKC and lower
case, so that one table row serves every casing: a small table has no rows to spare.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import UnigramTrainer

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = [PAD, UNKNOWN, CLS, SEP, MASK]


def train_unigram(texts: Iterable[str], *, vocabulary: int) -> Tokenizer:
    """A fast tokenizer of at most `vocabulary` pieces, special tokens included.

    `[CLS]` and `[SEP]` frame each text as BERT's tokenizer does; `[PAD]` is id 0.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        # Not "first": that asks for the first of the unstripped text, and finds a space there.
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = UnigramTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        unk_token=UNKNOWN,
        max_piece_length=16,
        shrinking_factor=0.75,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    cls_id, sep_id = tokenizer.token_to_id(CLS), tokenizer.token_to_id(SEP)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, cls_id), (SEP, sep_id)],
    )
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(PAD), pad_token=PAD)
    return tokenizer
