from collections.abc import Sequence

import numpy as np
import pytest

from distill.encoders import Outputs
from distill.tables.evaluate import MtebTable

pytest.importorskip("mteb", reason="the extra mteb is not installed")

from datasets import Dataset, DatasetDict
from mteb.abstasks.text.bitext_mining import AbsTaskBitextMining
from mteb.mocks.mock_tasks.bitext_mining import MockMultilingualBitextMiningTask

from distill.mteb_tasks import MtebError, measure_tasks, run_tasks


class Letters:
    """An encoder that counts the letters of a text."""

    def __init__(self) -> None:
        self.tasks = {}

    def outputs(self, texts: Sequence[str]) -> Outputs:
        counts = [[text.count(chr(97 + letter)) for letter in range(26)] for text in texts]
        return {"pooled": np.array(counts, dtype=np.float32) + 0.01}


class Translations(AbsTaskBitextMining):
    """French words that share letters with their English, and Finnish words that do not."""

    metadata = MockMultilingualBitextMiningTask.metadata.model_copy(
        update={
            "name": "Translations",
            "eval_langs": {
                "eng-fra": ["eng-Latn", "fra-Latn"],
                "eng-fin": ["eng-Latn", "fin-Latn"],
            },
        }
    )

    def load_data(self, **_: object) -> None:
        english = ["table", "music", "zebra"]
        words = {"eng-fra": ["tables", "musique", "zebre"], "eng-fin": ["xx", "music", "qq"]}
        self.dataset = {
            pair: DatasetDict(
                {"test": Dataset.from_dict({"sentence1": foreign, "sentence2": english})}
            )
            for pair, foreign in words.items()
        }
        self.data_loaded = True


def test_a_task_of_the_library_gives_a_score_per_language() -> None:
    table = MtebTable(tasks=("Translations",), languages={"fr": "fra", "en": "eng", "fi": "fin"})
    found = measure_tasks("letters", Letters(), [Translations()], table, source_language="en")
    scores = found["mteb Translations"]
    assert scores["fr"] == 1.0
    assert scores["fi"] < 0.7
    assert "en" not in scores


def test_a_task_that_is_not_there_is_refused() -> None:
    table = MtebTable(tasks=("NoSuchTask",), languages={"fr": "fra"})
    with pytest.raises(MtebError, match="NoSuchTask"):
        run_tasks("letters", Letters(), table, source_language="en")
    table = MtebTable(tasks=("Translations",), languages={"sw": "swa"})
    with pytest.raises(MtebError, match="Translations has no subset in swa"):
        measure_tasks("letters", Letters(), [Translations()], table, source_language="en")
