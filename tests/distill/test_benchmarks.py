from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from app.runtime.artifact import ClassificationTask
from distill import benchmarks
from distill.encoders import Outputs
from distill.reading import CorpusError
from distill.tables.labelled import LabelledFolder


class Directions:
    """An encoder that gives each text the direction it was told, in degrees, and its lengths."""

    def __init__(
        self, degrees: dict[str, float], logits: dict[str, list[float]] | None = None
    ) -> None:
        self.degrees, self.logits = degrees, logits or {}
        self.tasks = {
            "topic": ClassificationTask(labels=("food", "sport")),
            "sentiment": ClassificationTask(labels=("bad", "fine", "good")),
            "tags": ClassificationTask(
                labels=("bad", "fine", "good"), problem_type="multi", threshold=0.6, temperature=2
            ),
        }

    def outputs(self, texts: Sequence[str]) -> Outputs:
        angles = np.radians([self.degrees.get(text, 0.0) for text in texts])
        length = np.array([len(text) for text in texts])[:, None]  # must not matter
        pooled = (length * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)
        logits = np.array([self.logits.get(text, [0.0]) for text in texts], dtype=np.float32)
        return {"pooled": pooled, **{f"logits_{task}": logits for task in self.tasks}}


def write(path: Path, **columns: list[object]) -> None:
    path.parent.mkdir(exist_ok=True)
    pa.parquet.write_table(pa.table(columns), path)


def pairs(folder: Path, language: str, *texts: tuple[str, str]) -> None:
    write(
        folder / f"{language}.parquet",
        text=[text for text, _ in texts],
        text_en=[english for _, english in texts],
    )


def test_retrieval_is_measured_in_each_direction_by_itself(tmp_path: Path) -> None:
    # eins at 0 degrees, zwei at 50, one at 20, two at 90. From German: eins finds one (20 away
    # against 90), zwei finds one (30 against 40). From English: one finds eins (20 against 30),
    # two finds zwei.
    pairs(tmp_path, "de", ("eins", "one"), ("zwei", "two"))
    encoder = Directions({"eins": 0, "zwei": 50, "one": 20, "two": 90})
    scores = benchmarks.tatoeba(encoder, tmp_path, ["de"])
    assert scores["to_english"] == {"de": 0.5}
    assert scores["from_english"] == {"de": 1.0}
    # each is nearer to its translation (20, 40) than to the other German one (50)
    assert scores["closer"] == {"de": 1.0}


def test_closer_compares_with_another_sentence_of_the_same_language(tmp_path: Path) -> None:
    # eins lies 10 from zwei and 20 from one; zwei 10 from eins and 1 from two; drei is far from
    # zwei, which stands before it in the file, and near to three.
    pairs(tmp_path, "de", ("drei", "three"), ("zwei", "two"), ("eins", "one"))
    encoder = Directions({"eins": 0, "zwei": 10, "drei": 120, "one": -20, "two": 11, "three": 121})
    scores = benchmarks.tatoeba(encoder, tmp_path, ["de"])
    assert scores["closer"]["de"] == pytest.approx(2 / 3)
    assert scores["to_english"]["de"] == pytest.approx(2 / 3)  # eins finds two


def test_languages_without_a_file_are_left_out(tmp_path: Path) -> None:
    for language in ("de", "sw"):
        pairs(tmp_path, language, ("eins", "one"), ("zwei", "two"))
    encoder = Directions({"eins": 0, "one": 0, "zwei": 90, "two": 90})
    scores = benchmarks.tatoeba(encoder, tmp_path, ["sw", "zh", "de"])
    for by_language in scores.values():
        assert by_language == {"sw": 1.0, "de": 1.0}


def test_a_benchmark_without_any_of_the_languages_is_refused(tmp_path: Path) -> None:
    pairs(tmp_path, "de", ("eins", "one"))
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CorpusError, match=r"has no LANG\.parquet for any of: sw, zh"):
            benchmarks.tatoeba(Directions({}), folder, ["sw", "zh"])


def sts_rows(folder: Path, language: str, gold: list[float]) -> None:
    write(
        folder / f"{language}.parquet",
        sentence1=[f"one {number}" for number in range(len(gold))],
        sentence2=[f"two {number}" for number in range(len(gold))],
        score=gold,
        split=["dev"] * (len(gold) - 1) + ["test"],
    )


def test_similarity_is_compared_by_rank(tmp_path: Path) -> None:
    # Angles between the sides 10, 20, 40, 80 degrees: the nearer, the more alike.
    degrees = {f"two {number}": 10.0 * 2**number for number in range(4)}
    encoder = Directions(degrees)
    sts_rows(tmp_path, "de", [5.0, 4.9, 1.0, 0.5, 3.0])  # as people say, though unevenly spaced
    sts_rows(tmp_path, "sw", [0.5, 1.0, 4.9, 5.0, 3.0])  # the reverse
    # 1, 2, 4, 3 against 1, 2, 3, 4: rho = 1 - 6 * (1 + 1) / (4 * 15) = 0.8
    sts_rows(tmp_path, "zh", [5.0, 4.0, 1.0, 2.0, 3.0])
    scores = benchmarks.sts(encoder, tmp_path, ["de", "sw", "zh"], split="dev", max_pairs=100)
    assert scores == pytest.approx({"de": 1.0, "sw": -1.0, "zh": 0.8})
    # The first three of zh are in order.
    assert benchmarks.sts(encoder, tmp_path, ["zh"], split="dev", max_pairs=3) == {"zh": 1.0}


FOOD, SPORT = [1.0, -1.0], [-3.0, -2.0]
BAD, FINE, GOOD = [2.0, 0.0, 1.0], [0.0, 0.1, 0.0], [-5.0, -5.0, -4.0]


def scores_of(
    encoder: Directions, folder: Path, language: str, task: str, metric: str, split: str = "dev"
) -> dict[str, float]:
    rows = LabelledFolder(
        folder=folder, text_column="text", label_column="label", where={"split": split}
    )
    return benchmarks.classification(encoder, rows, [language], task=task, metric=metric)


def test_accuracy_is_the_share_of_right_labels_in_the_split(tmp_path: Path) -> None:
    write(
        tmp_path / "de.parquet",
        text=["a", "b", "c", "d", "e"],
        label=["food", "sport", "sport", "food", "food"],
        split=["dev", "dev", "dev", "dev", "train"],
    )
    encoder = Directions({}, {"a": FOOD, "b": SPORT, "c": FOOD, "d": FOOD, "e": SPORT})
    assert scores_of(encoder, tmp_path, "de", "topic", "accuracy") == {"de": 0.75}
    assert scores_of(encoder, tmp_path, "de", "topic", "accuracy", "train") == {"de": 0.0}


def test_macro_f1_weighs_every_label_alike(tmp_path: Path) -> None:
    # bad: 2 of 3 found, 2 of 2 predicted right: F1 = 4/5. fine: 1 of 1 found, 1 of 2: 2/3.
    # good: 1 of 1: 1. Accuracy would be 4/5; the mean of the three F1 is another number.
    write(
        tmp_path / "de.parquet",
        text=["a", "b", "c", "d", "e"],
        label=["bad", "bad", "bad", "fine", "good"],
        split=["dev"] * 5,
    )
    encoder = Directions({}, {"a": BAD, "b": BAD, "c": FINE, "d": FINE, "e": GOOD})
    scores = scores_of(encoder, tmp_path, "de", "sentiment", "macro_f1")
    assert scores["de"] == pytest.approx((4 / 5 + 2 / 3 + 1) / 3)


def test_several_labels_are_given_from_the_threshold_on(tmp_path: Path) -> None:
    # Threshold 0.6 at temperature 2: logits from 2 ln 1.5 = 0.81 on. BAD gives bad and good, FINE
    # nothing. Of a: bad right, good not; of b: fine missed; of c: both right. 2 * 3 / (4 + 4).
    write(
        tmp_path / "de.parquet",
        text=["a", "b", "c"],
        label=[["bad"], ["fine"], ["bad", "good"]],
        split=["dev"] * 3,
    )
    encoder = Directions({}, {"a": BAD, "b": FINE, "c": BAD})
    scores = scores_of(encoder, tmp_path, "de", "tags", "micro_f1")
    assert scores == {"de": pytest.approx(0.75)}


def test_a_label_of_several_that_the_head_does_not_know_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "de.parquet", text=["a"], label=[["bad", "ugly"]], split=["dev"])
    with pytest.raises(CorpusError, match="label 'ugly' was not among those learned: bad, fine"):
        scores_of(Directions({}, {"a": BAD}), tmp_path, "de", "tags", "micro_f1")


def test_pairs_are_read_as_pairs(tmp_path: Path) -> None:
    class Second(Directions):
        """Knows the label by the second text alone."""

        def outputs(self, texts: Sequence[tuple[str, str]]) -> Outputs:
            return super().outputs([second for _, second in texts])

    write(
        tmp_path / "de.parquet",
        premise=["a", "a"],
        hypothesis=["f", "s"],
        label=["food", "sport"],
        split=["dev"] * 2,
    )
    rows = LabelledFolder(
        folder=tmp_path,
        text_column="premise",
        pair_column="hypothesis",
        label_column="label",
        where={},
    )
    scores = benchmarks.classification(
        Second({}, {"f": FOOD, "s": SPORT}), rows, ["de"], task="topic", metric="accuracy"
    )
    assert scores == {"de": 1.0}


def test_what_a_benchmark_misses_in_its_files_is_named(tmp_path: Path) -> None:
    write(tmp_path / "de.parquet", text=["a"], split=["dev"])
    encoder = Directions({})
    with pytest.raises(CorpusError, match=r"de\.parquet has no column 'text_en'"):
        benchmarks.tatoeba(encoder, tmp_path, ["de"])
    with pytest.raises(CorpusError, match=r"de\.parquet has no column 'sentence1'"):
        benchmarks.sts(encoder, tmp_path, ["de"], split="dev", max_pairs=100)
    with pytest.raises(CorpusError, match=r"de\.parquet has no column 'label'"):
        scores_of(encoder, tmp_path, "de", "topic", "accuracy")
    pairs(tmp_path, "sw", ("a", "b"))
    with pytest.raises(CorpusError, match=r"sw\.parquet has no column 'label'"):
        scores_of(encoder, tmp_path, "sw", "sentiment", "macro_f1")
    write(tmp_path / "zh.parquet", text=["a"], label=["x"], split=["test"])
    with pytest.raises(CorpusError, match=r"zh\.parquet has no row where {'split': 'dev'}"):
        scores_of(encoder, tmp_path, "zh", "topic", "accuracy")
