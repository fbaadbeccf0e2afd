"""Tasks of the `mteb` library, run on any encoder that is measured here.

The library fetches a task's data and decides its protocol and its main score; nothing of it is
cached, so that what is told is of the folder as it is now.
"""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import mteb
import numpy as np
from mteb.models.model_meta import ModelMeta

from app.errors import LightMBERTError
from distill.comparison import Scores
from distill.encoders import Encoder, embeddings
from distill.suite import Results
from distill.tables.evaluate import MtebTable


class MtebError(LightMBERTError):
    """A task that the library does not have, or not in the languages asked for."""

    code = "bad_mteb_task"


class Embedder:
    """An encoder as the library asks it: batches in, unit vectors out, compared by cosine."""

    def __init__(self, name: str, encoder: Encoder) -> None:
        self._encoder = encoder
        self.mteb_model_meta = ModelMeta.create_empty(
            {"name": f"lightmbert/{name}", "revision": "local"}
        )

    def encode(self, inputs: Iterable[Mapping[str, list[str]]], **_: Any) -> np.ndarray:  # noqa: ANN401 - what the library tells of the task
        """(N, H) of all texts; prompts are left to the adapter's prefix."""
        texts = [text for batch in inputs for text in batch["text"]]
        return embeddings(self._encoder, texts)

    def similarity(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.asarray(one) @ np.asarray(other).T
        return found

    def similarity_pairwise(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        found: np.ndarray = (np.asarray(one) * np.asarray(other)).sum(axis=1)
        return found


def run_tasks(name: str, encoder: Encoder, table: MtebTable, *, source_language: str) -> Results:
    """Main score of every task in every language of the table: "mteb TASK" -> language -> score.

    Raises:
        MtebError: a task is not known, or has none of the languages.
    """
    try:
        tasks = mteb.get_tasks(list(table.tasks), languages=list(table.languages.values()))
    except (KeyError, ValueError) as error:
        raise MtebError(f"mteb cannot give the tasks {', '.join(table.tasks)}: {error}") from error
    return measure_tasks(name, encoder, tasks, table, source_language=source_language)


def measure_tasks(
    name: str, encoder: Encoder, tasks: Iterable[Any], table: MtebTable, *, source_language: str
) -> Results:
    """The same of task objects."""
    found = mteb.evaluate(
        Embedder(name, encoder), tasks, cache=None, show_progress_bar=False, co2_tracker=False
    )
    results: Results = {}
    for result in found.task_results:
        entries = [entry for entries in result.scores.values() for entry in entries]
        results[f"mteb {result.task_name}"] = _by_language(
            result.task_name, entries, table.languages, source_language
        )
    return results


def _by_language(
    task: str,
    entries: Iterable[Mapping[str, Any]],
    languages: Mapping[str, str],
    source_language: str,
) -> Scores:
    """Mean main score of the subsets of each language.

    A subset of two languages, as of translations, counts for the one that is not the source.
    """
    of_language: dict[str, list[float]] = {}
    names = {iso: language for language, iso in languages.items()}
    for entry in entries:
        codes = [code.partition("-")[0] for code in entry["languages"]]
        found = {names[code] for code in codes if code in names}
        for language in found - {source_language} or found:
            of_language.setdefault(language, []).append(float(entry["main_score"]))
    if not of_language:
        raise MtebError(f"{task} has no subset in {', '.join(languages.values())}")
    return {language: fmean(scores) for language, scores in of_language.items()}
