"""A head that tells languages apart by the pieces of the tokenizer: multinomial naive Bayes.

Of each language's text is counted how often each piece stands in it; the evidence of a piece for a
language is the logarithm of its smoothed share there. Pieces are not independent, so that sums are
too sure of themselves; the temperature that makes them honest is fitted on held-out text. Not on
whole texts, which are nearly all told right however sure the head is, but on beginnings of any
length: a word or two is where it has to say that it does not know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.naive_bayes import MultinomialNB
from tokenizers import Tokenizer

from app.runtime.outputs import Floats
from distill.anatomy import anatomy
from distill.batches import Ids, load_tokenizer, padded
from distill.corpus import load_corpus, places_of
from distill.coverage import chunks
from distill.lexical_head import LexicalHead, require_room, vocabulary_of
from distill.reading import CorpusError
from distill.reliability import Reliability, reliability
from distill.tables.finetune import LexicalTable
from distill.task_rows import hits
from distill.teacher import load_skeleton, tokenizer_file
from distill.trimming import special_ids


@dataclass(frozen=True)
class LexicalTexts:
    """Drawn texts by language, those to learn from and those held out, and a hash of their corpus."""

    learned: Mapping[str, Sequence[str]]
    held_out: Mapping[str, Sequence[str]]
    fingerprint: str


@dataclass(frozen=True)
class FittedLexical:
    """A head, and what texts say of it that it was not fitted on."""

    head: LexicalHead
    accuracy: float
    """Over all held-out texts."""
    reliability: Reliability


def read_texts(table: LexicalTable, *, seed: int) -> LexicalTexts:
    """Draw the texts of a table, the same for the same seed.

    Raises:
        CorpusError: the corpus cannot be read, lacks a language, or has no more texts of one than
            are held out.
    """
    corpus = load_corpus(table.corpus, exponent=0.0)
    if lacking := sorted(set(table.languages) - set(corpus.languages)):
        raise CorpusError(f"{places_of(table.corpus)}: no text of {', '.join(lacking)}")
    held_out, learned = {}, {}
    for language in sorted(table.languages):
        texts = corpus.of_language(language, at_most=table.texts_per_language, seed=seed)
        if len(texts) <= table.held_out_per_language:
            raise CorpusError(
                f"{places_of(table.corpus)}: {len(texts)} texts of {language}, of which "
                f"{table.held_out_per_language} are held out: none is left to learn from"
            )
        held_out[language] = texts[: table.held_out_per_language]
        learned[language] = texts[table.held_out_per_language :]
    return LexicalTexts(learned, held_out, corpus.fingerprint())


def fit_lexical(
    encoder: Path, table: LexicalTable, texts: LexicalTexts, *, max_tokens: int
) -> FittedLexical:
    """A head on the pieces that an encoder reads, whose temperature the held-out texts tell.

    Args:
        encoder: its folder; nothing of it is run.
        table: of the recipe.
        texts: as `read_texts` drew them.
        max_tokens: where a text is cut.

    Raises:
        EncoderError: the folder is no encoder's.
        HeadError: the tokenizer has pieces beyond the encoder's word table.
    """
    file, rows = tokenizer_file(str(encoder)), anatomy(load_skeleton(str(encoder))).vocabulary
    tokenizer = load_tokenizer(file, max_tokens=max_tokens)
    require_room(tokenizer, rows=rows)
    counts = np.stack([_counts(tokenizer, some, rows) for some in texts.learned.values()])
    counts[:, list(special_ids(file.read_text(encoding="utf-8")))] = 0
    head = LexicalHead(
        task=table.task,
        labels=tuple(texts.learned),
        problem_type="single",
        table=torch.from_numpy(_evidence(counts, smoothing=table.smoothing)),
        vocabulary=vocabulary_of(tokenizer),
    )
    held_out = [_ids(tokenizer, some) for some in texts.held_out.values()]
    targets = np.eye(len(head.labels), dtype=np.float32).repeat([*map(len, held_out)], axis=0)
    whole = [text for some in held_out for text in some]
    found = reliability(_logits(head, beginnings(whole)), targets, "single")
    told = {"data": texts.fingerprint, "ece": f"{found.ece_after:.4f}"}
    accuracy = float(np.mean(hits(_logits(head, whole), targets)))
    return FittedLexical(
        replace(head, temperature=found.temperature, provenance=told), accuracy, found
    )


def _counts(tokenizer: Tokenizer, texts: Sequence[str], rows: int) -> Floats:
    """How often each piece stands in the texts, (V,)."""
    found: Floats = np.zeros(rows, dtype=np.float64)
    for chunk in chunks(texts):
        ids = np.concatenate([np.array(ids, dtype=np.int64) for ids in _ids(tokenizer, chunk)])
        found += np.bincount(ids, minlength=rows)
    return found


def _evidence(counts: Floats, *, smoothing: float) -> Floats:
    """Counts (C, V) -> (V, C), centred over C, which changes no probability; 0 where nothing is known.

    A piece that no language was seen with would else speak for those of which fewer were seen.
    """
    model = MultinomialNB(alpha=smoothing, fit_prior=False)
    model.fit(counts, np.arange(len(counts)))
    logs = model.feature_log_prob_.T
    seen = (counts.sum(axis=0) > 0)[:, None]
    evidence: Floats = np.where(seen, logs - logs.mean(axis=1, keepdims=True), 0).astype(np.float32)
    return evidence


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Ids]:
    """Ids of each text's own pieces."""
    return [
        encoding.ids
        for chunk in chunks(texts)
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False)
    ]


def beginnings(texts: Sequence[Ids]) -> list[Ids]:
    """Of each text at least its first piece; how many more is drawn, as likely 1 to 2 as 2 to 4."""
    shares = np.random.default_rng(len(texts)).random(len(texts))
    return [
        ids[: int(np.ceil(max(1, len(ids)) ** share))]
        for ids, share in zip(texts, shares, strict=True)
    ]


def _logits(head: LexicalHead, texts: Sequence[Ids]) -> Floats:
    return np.concatenate([head(padded(chunk)).numpy() for chunk in chunks(texts)])
