from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from app.runtime.artifact import ClassificationTask
from app.runtime.tokenizer import Text
from distill.encoders import Outputs
from distill.reading import CorpusError
from distill.tables.evaluate import ZeroShotTable
from distill.zero_shot import zero_shot_scale

LABELS = {"about food": 0.0, "about sport": 90.0}


class Directions:
    """An encoder of labels at right angles; a text says at how many degrees it lies."""

    tasks: dict[str, ClassificationTask] = {}  # noqa: RUF012 - none

    def outputs(self, texts: Sequence[Text]) -> Outputs:
        degrees = [LABELS[str(text)] if text in LABELS else float(str(text)) for text in texts]
        angles = np.radians(degrees)
        return {"pooled": np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)}


def table(folder: Path, *told: tuple[float, str], template: str = "about {}") -> ZeroShotTable:
    texts, labels = zip(*told, strict=True)
    columns = {"text": [str(text) for text in texts], "label": labels}
    pa.parquet.write_table(pa.table(columns), folder / "en.parquet")
    rows = {"folder": folder, "text_column": "text", "label_column": "label", "where": {}}
    return ZeroShotTable.model_validate({"template": template, "rows": rows})


def test_the_scale_is_that_under_which_the_labels_are_likeliest(tmp_path: Path) -> None:
    # At 30 degrees, nine of ten are food: cosines 0.866 and 0.5 must become 0.9 and 0.1, but for
    # the smoothing, which makes it (18 + 1) / 22; so for sport at 60 degrees.
    food = [(30.0, "food")] * 9 + [(30.0, "sport")]
    sport = [(60.0, "sport")] * 9 + [(60.0, "food")]
    found = zero_shot_scale(Directions(), table(tmp_path, *food, *sport), ["en"])
    likeliest = 19 / 22
    expected = (np.cos(np.pi / 6) - 0.5) / np.log(likeliest / (1 - likeliest))
    assert found.temperature == pytest.approx(expected, rel=1e-3)
    # Several labels: 0.9 at 0.866 and 0.1 at 0.5, so as likely as not half way.
    assert found.middle == pytest.approx((np.cos(np.pi / 6) + 0.5) / 2, rel=1e-3)
    assert found.multi_temperature == pytest.approx(
        (np.cos(np.pi / 6) - 0.5) / (2 * np.log(9)), rel=1e-3
    )


def test_labels_that_texts_stay_away_from_give_no_scale(tmp_path: Path) -> None:
    wrong = table(tmp_path, (80.0, "food"), (10.0, "sport"))
    with pytest.raises(CorpusError, match="hardly nearer to their own labels than to others"):
        zero_shot_scale(Directions(), wrong, ["en"])


def test_one_label_gives_no_scale(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="has the label 'food' only"):
        zero_shot_scale(Directions(), table(tmp_path, (10.0, "food")), ["en"])


def test_labels_that_texts_hardly_tell_apart_give_no_scale(tmp_path: Path) -> None:
    # Five labels a degree apart, of which the nearest is right as rarely as the others: at no
    # cosine is one as likely as not.
    texts = [
        (44.0, str(number))
        for number, count in enumerate((19, 20, 20, 20, 21))
        for _ in range(count)
    ]
    LABELS.update({f"about {number}": float(number) for number in range(5)})
    with pytest.raises(CorpusError, match="hardly nearer"):
        zero_shot_scale(Directions(), table(tmp_path, *texts), ["en"])


@pytest.mark.parametrize("template", ["about", "{} or {}"])
def test_a_template_has_one_gap(template: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"must hold \{\} once"):
        table(tmp_path, (30.0, "food"), template=template)
