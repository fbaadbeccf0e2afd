"""`lightmbert head fit`: from rows in files to a head that is served, with what to expect of it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import lightmbert
from hypothesis import given
from hypothesis import strategies as st
from serving import serving
from sklearn.linear_model import LogisticRegression
from typer.testing import Result

from app.head_file import HeadError
from app.head_folder import read_head
from app.judging import judged, threshold_for, wilson

ANIMALS = ("hund", "dog dog", "katt", "cat cat", "hund katt", "dog")
MONEY = ("tax", "tax tax", "tax tax tax", "hund tax tax", "katt tax tax")
ROWS = [(text, "animal") for text in ANIMALS] + [(text, "money") for text in MONEY]


@pytest.fixture
def heads_dir(tmp_path: Path) -> Path:
    return tmp_path / "heads"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "data.csv", ROWS)


def written(
    path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")
) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def head(toy_model_dir: Path, heads_dir: Path, monkeypatch: pytest.MonkeyPatch) -> "Head":
    monkeypatch.setenv("LIGHTMBERT_HEADS_DIR", str(heads_dir))
    monkeypatch.setenv("LIGHTMBERT_MODEL_DIR", str(toy_model_dir))
    return Head()


class Head:
    """The command, on the toy student."""

    def __call__(self, *arguments: object) -> Result:
        return lightmbert("head", *arguments)

    def fit(self, *arguments: object) -> dict:
        result = self("fit", *arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


async def test_what_is_served_is_what_scikit_learn_predicts(
    head: Head, data: Path, heads_dir: Path, toy_model_dir: Path
) -> None:
    told = head.fit("kind", data)
    asked = ["hund tax", "katt katt", "zebra", "tax"]
    async with serving(toy_model_dir, heads_dir=heads_dir) as http:
        texts = [text for text, _ in ROWS]
        vectors = np.array((await http.embed(texts)).json()["embeddings"])
        answer = (await http.classify(asked, task="kind")).json()["results"]
        unseen = np.array((await http.embed(asked)).json()["embeddings"])
    served = [{each["label"]: each["score"] for each in result["scores"]} for result in answer]
    fitted = read_head(heads_dir / "kind")
    matches = []
    for strength in (0.1, 0.3, 1, 3, 10, 30, 100):
        model = LogisticRegression(C=strength, max_iter=5_000)
        model.fit(vectors, [label for _, label in ROWS])
        model.coef_ = model.coef_ / told["temperature"]
        model.intercept_ = model.intercept_ / told["temperature"]
        expected = model.predict_proba(unseen)
        found = [[each[label] for label in model.classes_] for each in served]
        matches.append(np.allclose(found, expected, atol=2e-3))
        if matches[-1]:
            assert fitted.file.task.labels == tuple(model.classes_)
    assert any(matches)


@pytest.mark.parametrize("labels", [3, 2])
def test_more_labels_are_scikit_learns_too(labels: int) -> None:
    from app.fitting import Fitter

    random = np.random.default_rng(labels)
    y = np.arange(60) % labels
    vectors = random.normal(size=(60, 8)).astype(np.float32) + np.eye(8, dtype=np.float32)[y] * 2
    names = tuple("abc"[:labels])
    fit = Fitter(vectors, np.eye(labels, dtype=np.float32)[y], problem="single", labels=names).fit()
    model = LogisticRegression(C=fit.inverse_regularization, max_iter=5_000).fit(vectors, y)
    exponents = np.exp(fit.linear(vectors))
    np.testing.assert_allclose(
        exponents / exponents.sum(1, keepdims=True), model.predict_proba(vectors), atol=1e-3
    )
    held_out = fit.held_out.argmax(-1)
    assert held_out.shape == (5, 60)
    assert 0.8 < (held_out == y).mean() < 1, "judged on rows that it did not see"


def test_the_report_is_told_and_drawn(head: Head, data: Path, heads_dir: Path) -> None:
    result = head("fit", "kind", data)
    assert result.exit_code == 0, result.output
    assert "examples   11, 5 to 6 of each of 2 labels" in result.stdout
    assert "accuracy 1.00" in result.stdout
    assert "what is right, by row" in result.stdout
    assert (heads_dir / "kind" / "learning_curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(list((heads_dir / "kind").glob("[!.]*"))) == 3


def test_a_fitted_head_is_a_task_of_the_command_line(
    head: Head, data: Path, tmp_path: Path
) -> None:
    head.fit("kind", data)
    (tmp_path / "new.txt").write_text("katt dog\ntax tax tax tax\n")
    result = lightmbert("classify", "--task", "kind", tmp_path / "new.txt")
    labels = [json.loads(line)["label"] for line in result.stdout.splitlines() if line[0] == "{"]
    assert labels == ["animal", "money"]


def test_one_is_listed_shown_and_removed(head: Head, data: Path, heads_dir: Path) -> None:
    assert "no heads in" in head("list").stderr
    head.fit("kind", data)
    assert "kind  2 labels on toy 1" in head("list").stdout
    shown = head("show", "kind").stdout
    assert "labels     animal, money" in shown
    assert json.loads(head("show", "kind", "--json").stdout)["expected"]["rows"] == 11
    [weights] = (heads_dir / "kind").glob("*.safetensors")
    weights.write_bytes(b"")
    assert "cannot be used: " in head("list").stdout
    assert "error" in json.loads(head("list", "--json").stdout)[0]
    assert head("remove", "kind").exit_code == 0
    assert not (heads_dir / "kind").exists()
    for command in ("show", "remove"):
        result = head(command, "kind")
        assert (result.exit_code, "holds no head" in result.stderr) == (1, True)


def test_rows_that_repeat_or_contradict_are_left_out_and_told(head: Head, tmp_path: Path) -> None:
    extra = [ROWS[0], ROWS[0], ("cat", "animal"), ("cat", "money"), ("", "")]
    path = written(tmp_path / "data.csv", ROWS + extra)
    result = head("fit", "kind", path)
    assert result.exit_code == 0, result.output
    assert "examples   11," in result.stdout
    assert "2 rows left out that repeat another" in result.stdout
    places = f"{path} row 14, {path} row 15"
    assert f"2 rows left out that give one text different labels: {places}" in result.stdout


def test_txt_files_are_labels_and_other_columns_may_be_named(head: Head, tmp_path: Path) -> None:
    (tmp_path / "animal.txt").write_text("\n".join(ANIMALS))
    (tmp_path / "money.txt").write_text("\n".join(MONEY) + "\n\n")
    by_file = head.fit("files", tmp_path / "animal.txt", tmp_path / "money.txt")
    path = written(tmp_path / "data.csv", ROWS, header=("body", "tag"))
    named = head.fit("columns", path, "--column", "body", "--label-column", "tag")
    assert by_file["labels"] == named["labels"] == ["animal", "money"]
    assert by_file["expected"] == named["expected"]


def test_a_text_may_have_several_labels_or_none(
    head: Head, tmp_path: Path, heads_dir: Path
) -> None:
    both = [
        ("hund tax", "animal; money"),
        ("katt tax", "money;animal"),
        ("cat tax", "animal;money"),
    ]
    none = [("zebra", ""), ("zebra zebra", ""), ("zebra zebra zebra", "")]
    path = written(tmp_path / "data.csv", ROWS + both + none)
    told = head.fit("kinds", path, "--separator", ";")
    assert told["labels"] == ["animal", "money"]
    assert told["confusion"] is None
    task = read_head(heads_dir / "kinds").file.task
    assert task.problem_type == "multi"
    assert task.threshold is not None
    result = head("fit", "kinds", path, "--separator", ";")
    assert "every label right" in result.stdout


def test_an_answer_may_be_held_back_below_a_threshold(head: Head, data: Path) -> None:
    assert head.fit("kind", data, "--threshold", "0.7")["threshold"] == 0.7
    chosen = head.fit("kind", data, "--precision", "0.8")
    assert 0 < chosen["threshold"] < 1
    assert chosen["expected"]["precision"] >= 0.8
    result = head("fit", "kind", data, "--precision", "0.999")
    assert result.exit_code == 1
    assert "no threshold gives a precision of 0.999 on these examples: the best is" in result.stderr


def test_examples_of_a_label_may_count_more() -> None:
    from app.fitting import Fitter

    y = np.array([0] * 12 + [1] * 4)
    vectors = np.ones((16, 1), dtype=np.float32)  # nothing to go by but how many there are
    found = []
    for weight in ({"a": 3.0}, None, "balanced", {"b": 9.0}):
        targets = np.eye(2, dtype=np.float32)[y]
        fitter = Fitter(vectors, targets, problem="single", labels=("a", "b"), class_weight=weight)
        linear = fitter.fit().linear
        found.append(float(linear(vectors)[0] @ [1, -1]))
    assert found == pytest.approx([np.log(9), np.log(3), 0, -np.log(3)], abs=0.3)


@pytest.mark.parametrize(
    ("name", "rows", "options", "message"),
    [
        ("topic", ROWS, [], "toy ships with a head 'topic'; choose another name"),
        ("Kind!", ROWS, [], "'Kind!' is no name for a head: use a-z, 0-9 and _"),
        ("../kind", ROWS, [], "'../kind' is no name for a head"),
        ("kind", ROWS[:6], [], "too few labels to tell apart: 'animal'; at least 2"),
        ("kind", [], [], "too few labels to tell apart: none; at least 2"),
        ("kind", ROWS[:8], [], "label 'money' has 2 examples; each needs 3 at least"),
        ("kind", [*ROWS, (" ", "money")], [], "row 12 has a label and no text"),
        ("kind", [*ROWS, ("cat", "")], [], "row 12 has a text and no label"),
        ("kind", ROWS, ["--column", "body"], "has no column 'body'; it has: text, label"),
        ("kind", ROWS, ["--label-column", "tag"], "has no column 'tag'; it has: text, label"),
        ("kind", ROWS, ["--class-weight", "spam=2"], "no label 'spam'; there are: animal, money"),
        ("kind", ROWS, ["--class-weight", "money=x"], "'x' is no number"),
        ("kind", ROWS, ["--class-weight", "money=0"], "0 must be above 0"),
        (
            "kind",
            ROWS,
            ["--threshold", "0.5", "--precision", "0.5"],
            "--threshold and --precision exclude each other",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    head: Head,
    tmp_path: Path,
    heads_dir: Path,
    name: str,
    rows: list[tuple[str, str]],
    options: list[str],
    message: str,
) -> None:
    result = head("fit", name, written(tmp_path / "data.csv", rows), *options)
    of_the_command = {"--class-weight", "--precision"} & set(options)
    assert result.exit_code == (2 if of_the_command else 1)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not heads_dir.exists()


def test_standard_input_is_refused(head: Head) -> None:
    assert "examples are read twice" in head("fit", "kind", "-").stderr


@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60),
    st.floats(0.05, 0.99),
)
def test_a_threshold_keeps_its_precision_and_is_the_lowest_that_does(
    rows: list[tuple[float, bool]], precision: float
) -> None:
    found, right = (np.array(column, dtype=np.float32) for column in zip(*rows, strict=True))

    def reached(threshold: float) -> float:
        given_ones = right[found >= threshold]
        return (given_ones.sum() + 1) / (len(given_ones) + 2)

    possible = [float(each) for each in found if reached(float(each)) >= precision]
    try:
        threshold = threshold_for(precision, found, right)
    except HeadError:
        assert not possible
    else:
        assert reached(threshold) >= precision - 1e-6
        assert threshold <= min(possible) + 1e-6


@given(st.integers(0, 50), st.integers(1, 50))
def test_a_range_holds_the_share_and_stays_between_none_and_all(right: int, rows: int) -> None:
    share = min(right, rows) / rows
    low, high = wilson(share, rows)
    assert 0 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1
    assert wilson(share, rows * 4)[0] >= low - 1e-9


def test_a_range_is_wilsons() -> None:
    assert wilson(0.8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)


def test_judging_counts_by_hand() -> None:
    found = np.array([[[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]]], dtype=np.float32)
    targets = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], dtype=np.float32)
    seen = judged(
        found,
        targets,
        labels=("a", "b"),
        problem="single",
        temperature=1,
        threshold=0.65,
        precision=None,
    )
    assert seen.expected.accuracy == 0.75
    assert seen.f1 == pytest.approx([2 / 3, 4 / 5])
    assert seen.confusion is not None
    assert seen.confusion.tolist() == [[1, 0], [1, 2]]
    assert (seen.expected.answered, seen.expected.precision) == (0.75, 1)
