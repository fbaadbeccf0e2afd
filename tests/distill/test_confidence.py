from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from evaluations import a_table

from app.runtime.artifact import ClassificationTask
from app.runtime.tokenizer import Text
from distill.confidence import confidence_tables
from distill.encoders import Outputs


class Sure:
    """An encoder whose texts say how sure it is of "yes": a probability."""

    def __init__(self, **task: object) -> None:
        self.tasks = {"topic": ClassificationTask.model_validate({"labels": ("yes", "no")} | task)}

    def outputs(self, texts: Sequence[Text]) -> Outputs:
        sure = np.array([float(str(text)) for text in texts], dtype=np.float32)
        logits = np.log(np.stack([sure, 1 - sure], axis=1))
        return {"pooled": np.ones((len(texts), 2), np.float32), "logits_topic": logits}


def rows(folder: Path, language: str, *told: tuple[str, str]) -> None:
    texts, labels = zip(*told, strict=True)
    columns = {"text": texts, "label": labels, "split": ["dev"] * len(told)}
    pa.parquet.write_table(pa.table(columns), folder / f"{language}.parquet")


def told(encoder: Sure, folder: Path) -> list[str]:
    return confidence_tables(encoder, a_table(topic=folder, sts=None, max_sts_pairs=None)).split(
        "\n"
    )


def test_what_a_head_is_sure_of_is_held_against_what_is_right(tmp_path: Path) -> None:
    rows(tmp_path, "en", ("0.9", "yes"), ("0.9", "yes"), ("0.9", "yes"), ("0.9", "no"))
    rows(tmp_path, "sw", ("0.15", "no"), ("0.38", "yes"))  # sure of "no" to 0.85 and to 0.62
    rows(tmp_path, "de", ("0.65", "yes"))
    lines = told(Sure(), tmp_path)
    assert lines[0] == "### SIB-200 topic, accuracy; the head saw en only"
    # en: 0.9 against 3 of 4. The others, in bins of a fifteenth: 0.62 and 0.65 in one, 0.85 alone.
    assert "| en | 4 | 0.900 | 0.750 | 0.150 |" in lines
    assert "| the others | 3 | 0.707 | 0.667 | 0.140 |" in lines
    assert lines[-3:] == [
        "| 0.6 to 0.7 | 0.286 | 0.500 |",
        "| 0.8 to 0.9 | 0.143 | 1.000 |",
        "| 0.9 to 1.0 | 0.571 | 0.750 |",
    ]


def test_confidence_is_told_as_the_head_answers(tmp_path: Path) -> None:
    rows(tmp_path, "en", ("0.9", "yes"))
    # logits halved: odds of 9 become odds of 3
    assert "| en | 1 | 0.750 | 1.000 | 0.250 |" in told(Sure(temperature=2.0), tmp_path)


def test_nothing_is_told_of_heads_that_give_several_labels(tmp_path: Path) -> None:
    rows(tmp_path, "en", ("0.9", "yes"))
    assert told(Sure(problem_type="multi", threshold=0.5), tmp_path) == [""]
