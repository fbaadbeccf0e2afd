import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tiny_world import WORDS, World, recipe, sentences

from distill.encoders import TorchEncoder, embeddings
from distill.finetune import run
from distill.heads import Head, load_heads
from distill.labelled import read_labelled
from distill.logistic import fit_head
from distill.reading import CorpusError
from distill.tables.finetune import HeadTable
from distill.tables.labelled import LabelledTable

DOINGS = dict(zip(WORDS["en"][1], ("rest", "food", "rest", "song"), strict=True))
"""What a creature does -> label."""


def label_of(text: str) -> str:
    return next(label for doing, label in DOINGS.items() if doing in text)


def write_labelled(path: Path, labels: list[str | None]) -> Path:
    texts = sentences("en")[: len(labels)]
    pa.parquet.write_table(pa.table({"text": texts, "label": labels}), path)
    return path


def a_table(path: Path, **where: str) -> LabelledTable:
    return LabelledTable(path=path, text_column="text", label_column="label", where=where)


def head_table(path: Path, *, task: str = "doing") -> HeadTable:
    return HeadTable(task=task, data=a_table(path), inverse_regularization=100.0)


@pytest.fixture(scope="module")
def encoder(world: World) -> TorchEncoder:
    return TorchEncoder(world.english, max_tokens=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelled") / "rows.parquet"
    return write_labelled(path, [label_of(text) for text in sentences("en")])


def test_a_head_learns_what_words_tell(encoder: TorchEncoder, data: Path) -> None:
    fitted = fit_head(encoder, head_table(data), seed=1)
    head = fitted.head
    assert head.labels == ("food", "rest", "song")
    assert fitted.accuracy > 0.75  # half of the rows are "rest"
    pooled = torch.from_numpy(encoder.outputs(sentences("en"))["pooled"])
    right = [
        head.labels[index] == label_of(text)
        for index, text in zip(head(pooled).argmax(1), sentences("en"), strict=True)
    ]
    assert np.mean(right) > 0.9


def test_a_head_of_several_labels_is_scikit_learns(encoder: TorchEncoder, data: Path) -> None:
    head = fit_head(encoder, head_table(data), seed=1).head
    labels = [label_of(text) for text in sentences("en")]
    compare_with_scikit_learn(encoder, head, labels)


def test_a_head_of_two_labels_is_scikit_learns(encoder: TorchEncoder, tmp_path: Path) -> None:
    labels = ["song" if label_of(text) == "song" else "other" for text in sentences("en")]
    path = write_labelled(tmp_path / "two.parquet", labels)
    head = fit_head(encoder, head_table(path), seed=1).head
    assert head.weight.shape == (2, 32)
    compare_with_scikit_learn(encoder, head, labels)


def compare_with_scikit_learn(encoder: TorchEncoder, head: Head, labels: list[str]) -> None:
    features = embeddings(encoder, sentences("en"))
    model = LogisticRegression(C=100.0, max_iter=2000, random_state=1).fit(features, labels)
    pooled = torch.from_numpy(encoder.outputs(sentences("en"))["pooled"])
    found = head(pooled).softmax(-1).numpy()
    np.testing.assert_allclose(found, model.predict_proba(features), atol=1e-4)


def test_cross_validation_is_on_text_the_head_has_not_seen(
    encoder: TorchEncoder, tmp_path: Path
) -> None:
    chance = np.random.default_rng(1).choice(["a", "b"], size=72)
    path = write_labelled(tmp_path / "chance.parquet", chance.tolist())
    fitted = fit_head(encoder, head_table(path), seed=1)
    head = fitted.head
    pooled = torch.from_numpy(encoder.outputs(sentences("en"))["pooled"])
    by_heart = np.mean(np.array(head.labels)[head(pooled).argmax(1)] == chance)
    assert fitted.accuracy < by_heart - 0.1
    # nothing is to be learned here, so a calibrated head is hardly sure of anything
    assert fitted.reliability.ece_after < fitted.reliability.ece_before - 0.1
    assert head.temperature == fitted.reliability.temperature > 3


def test_the_verb_adds_every_head_to_every_encoder(
    world: World, data: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, source in zip(folders, (world.english, world.teacher), strict=True):
        shutil.copytree(source, folder)
    heads = [head_table(data, task=task).model_dump() for task in ("doing", "again")]
    table = {"method": "frozen", "encoders": folders, "heads": heads, "max_tokens": 32}
    run(recipe(tmp_path / "run", finetune=table))
    for folder in folders:
        assert list(load_heads(folder)) == ["again", "doing"]
        served = TorchEncoder(folder, max_tokens=32)
        assert served.tasks["doing"].labels == ("food", "rest", "song")
        assert served.outputs(["the dog sings"])["logits_doing"].shape == (1, 3)
    weights = [load_heads(folder)["doing"].weight for folder in folders]
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a"] * 9, r"rows\.parquet has the label 'a' only"),
        (["a"] * 9 + ["b"], r"rows\.parquet has one row of label 'b'"),
        (["a", None, "b", None], r"rows\.parquet: 2 of 4 rows have no 'label'"),
    ],
)
def test_labels_that_teach_nothing_are_refused(
    encoder: TorchEncoder, tmp_path: Path, labels: list[str | None], said: str
) -> None:
    path = write_labelled(tmp_path / "rows.parquet", labels)
    with pytest.raises(CorpusError, match=said):
        fit_head(encoder, head_table(path), seed=1)


def test_a_rare_label_makes_for_fewer_folds(encoder: TorchEncoder, tmp_path: Path) -> None:
    path = write_labelled(tmp_path / "rows.parquet", ["a"] * 20 + ["b"] * 3)
    assert fit_head(encoder, head_table(path), seed=1).head.labels == ("a", "b")


def test_labelled_rows_are_those_of_the_split_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label,split,year\neins,1,train,7\nzwei,2,dev,7\ndrei,3,train,8\n")
    found = read_labelled(a_table(path, split="train"))
    assert (found.texts, found.labels) == (["eins", "drei"], ["1", "3"])
    assert read_labelled(a_table(path, split="train", year="8")).texts == ["drei"]
    with pytest.raises(CorpusError, match="no column 'kind'"):
        read_labelled(a_table(path).model_copy(update={"label_column": "kind"}))
