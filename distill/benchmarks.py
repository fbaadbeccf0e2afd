"""How good an encoder is, per language: each benchmark maps languages to scores.

None averages over languages: a mean hides the language that fails.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import f1_score

from app.runtime.outputs import Floats, probabilities
from distill.comparison import Scores
from distill.encoders import Encoder, embeddings
from distill.labelled import Labelled, read_labelled
from distill.reading import CorpusError, read_table
from distill.tables.labelled import LabelledFolder

Metric = Literal["accuracy", "macro_f1", "micro_f1"]


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


def classification(
    encoder: Encoder, rows: LabelledFolder, languages: Iterable[str], *, task: str, metric: Metric
) -> Scores:
    """Score of the head `task` on labelled text or pairs.

    Raises:
        CorpusError: no language has a file, or one's rows cannot be read or have labels that
            the head does not know.
    """
    scores = {}
    for language in languages_in(rows.folder, languages):
        of_language = read_labelled(rows.of(language))
        scores[language] = _score(encoder, task, of_language, metric)
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


def _score(encoder: Encoder, task: str, rows: Labelled, metric: Metric) -> float:
    logits = encoder.outputs(rows.texts)[f"logits_{task}"]
    if metric == "micro_f1":
        return _micro_f1(encoder, task, rows, logits)
    predicted = np.array(encoder.tasks[task].labels)[logits.argmax(axis=1)]
    if metric == "accuracy":
        return float((predicted == np.array(rows.labels)).mean())
    return float(f1_score(rows.labels, predicted, average="macro"))


def _micro_f1(encoder: Encoder, task: str, rows: Labelled, logits: Floats) -> float:
    """Every label whose probability reaches the head's threshold is given."""
    stated = encoder.tasks[task]
    threshold = 0.5 if stated.threshold is None else stated.threshold
    given = probabilities(logits, stated) >= threshold
    wanted = rows.targets(stated.labels)
    return float(f1_score(wanted, given, average="micro", zero_division=0))
