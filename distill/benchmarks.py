"""How good an encoder is, per language: each benchmark maps languages to scores.

None averages over languages: a mean hides the language that fails.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import f1_score

from distill.corpus import CorpusError, read_table
from distill.encoders import Encoder, embeddings
from distill.labelled import Labelled, read_labelled
from distill.tables.text import LabelledTable

Scores = dict[str, float]


def languages_in(folder: Path, wanted: Iterable[str]) -> list[str]:
    """Those of the wanted languages that the folder has a file for.

    Raises:
        CorpusError: it has none of them.
    """
    languages = list(wanted)
    found = [language for language in languages if (folder / f"{language}.parquet").is_file()]
    if not found:
        raise CorpusError(f"{folder} has no LANG.parquet for any of: {', '.join(languages)}")
    return found


def topic(encoder: Encoder, folder: Path, languages: Iterable[str], *, split: str) -> Scores:
    """Accuracy of the head `topic` (SIB-200, arXiv:2309.07445)."""
    scores = {}
    for language in languages_in(folder, languages):
        rows = _labelled(folder / f"{language}.parquet", split)
        correct = _predicted(encoder, "topic", rows) == np.array(rows.labels)
        scores[language] = float(correct.mean())
    return scores


def sentiment(encoder: Encoder, folder: Path, languages: Iterable[str], *, split: str) -> Scores:
    """Macro-averaged F1 of the head `sentiment` (UMSAB, arXiv:2104.12250)."""
    scores = {}
    for language in languages_in(folder, languages):
        rows = _labelled(folder / f"{language}.parquet", split)
        predicted = _predicted(encoder, "sentiment", rows)
        scores[language] = float(f1_score(rows.labels, predicted, average="macro"))
    return scores


def tatoeba(encoder: Encoder, folder: Path, languages: Iterable[str]) -> dict[str, Scores]:
    """Bitext retrieval on Tatoeba pairs (LASER's selection), with cosine and no margin.

    `to_english` and `from_english` are accuracy@1 among the language's own pairs; `closer` is
    the share of sentences nearer to their translation than to another sentence of their own
    language, which is the one before it in the file.
    """
    scores: dict[str, Scores] = {"to_english": {}, "from_english": {}, "closer": {}}
    for language in languages_in(folder, languages):
        rows = read_table(folder / f"{language}.parquet", columns=("text", "text_en"))
        texts = embeddings(encoder, rows["text"].to_pylist())
        english = embeddings(encoder, rows["text_en"].to_pylist())
        cosine = texts @ english.T
        own = np.arange(len(texts))
        scores["to_english"][language] = float(np.mean(cosine.argmax(1) == own))
        scores["from_english"][language] = float(np.mean(cosine.argmax(0) == own))
        other = np.sum(texts * np.roll(texts, 1, axis=0), axis=1)
        scores["closer"][language] = float(np.mean(cosine[own, own] > other))
    return scores


def sts(
    encoder: Encoder, folder: Path, languages: Iterable[str], *, split: str, max_pairs: int
) -> Scores:
    """Spearman correlation of cosine and gold similarity (STS-B and its translations)."""
    scores = {}
    for language in languages_in(folder, languages):
        rows = read_table(
            folder / f"{language}.parquet",
            columns=("sentence1", "sentence2", "score"),
            where={"split": split},
        ).slice(0, max_pairs)
        first = embeddings(encoder, rows["sentence1"].to_pylist())
        second = embeddings(encoder, rows["sentence2"].to_pylist())
        cosine, gold = (first * second).sum(1), rows["score"].to_numpy()
        scores[language] = float(spearmanr(cosine, gold).statistic)
    return scores


def _labelled(path: Path, split: str) -> Labelled:
    return read_labelled(
        LabelledTable(path=path, text_column="text", label_column="label", where={"split": split})
    )


def _predicted(encoder: Encoder, task: str, rows: Labelled) -> np.ndarray:
    logits = encoder.outputs(rows.texts)[f"logits_{task}"]
    predicted: np.ndarray = np.array(encoder.labels[task])[logits.argmax(axis=1)]
    return predicted
