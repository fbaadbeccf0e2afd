"""Labels that a request brings along, found by similarity.

In the toy student "hund" and "dog" are one direction, "katt" and "cat" another, "tax" a third.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from commands import lightmbert
from hypothesis import given
from hypothesis import strategies as st
from serving import Client, serving
from toy_student import write_model_dir
from typer.testing import Result

from app.admission import Terms
from app.engine import Engine
from app.errors import DeadlineExceededError, InputError
from app.metrics import Metrics
from app.settings import Settings
from app.zero_shot import LABEL_CACHE_BYTES, MAX_LABELS, choice

MEASURED = {"temperature": 0.5, "multi_temperature": 0.25, "middle": 0.2}
BARE = {"template": "{}"}
WORDS = ("hund", "katt", "tax", "hund katt", "katt tax", "zebra")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def alter(manifest: dict[str, Any]) -> None:
        manifest["zero_shot"] = MEASURED

    return write_model_dir(tmp_path_factory.mktemp("zero-shot") / "toy", alter)


@pytest.fixture
async def http(model_dir: Path) -> AsyncIterator[Client]:
    async with serving(model_dir) as client:
        yield client


def scores_of(result: dict[str, Any]) -> dict[str, float]:
    return {each["label"]: each["score"] for each in result["scores"]}


async def test_one_label_is_chosen_by_a_softmax_over_cosines(http: Client) -> None:
    answer = await http.classify("hund dog katt", labels=["dog", "cat", "tax"], **BARE)
    assert answer.status_code == 200, answer.text
    assert answer.json()["task"] == "zero-shot"
    [result] = answer.json()["results"]
    cosines = {"dog": 2 / math.sqrt(5), "cat": 1 / math.sqrt(5), "tax": 0}
    exponents = {label: math.exp(cosine / 0.5) for label, cosine in cosines.items()}
    for label, score in scores_of(result).items():
        assert score == pytest.approx(exponents[label] / sum(exponents.values()), abs=1e-6)
    assert result["label"] == "dog"


async def test_several_labels_are_given_by_a_sigmoid_each(http: Client) -> None:
    options = {"labels": ["dog", "cat", "tax"], "multi_label": True, "threshold": 0.5, **BARE}
    [result] = (await http.classify("hund katt", **options)).json()["results"]
    expected = 1 / (1 + math.exp(-(1 / math.sqrt(2) - 0.2) / 0.25))
    assert scores_of(result) == pytest.approx({"dog": expected, "cat": expected}, abs=1e-6)


async def test_one_label_alone_may_fit_or_not(http: Client) -> None:
    options = {"labels": ["dog"], "multi_label": True, "threshold": 0.5, **BARE}
    results = (await http.classify(["hund", "katt"], **options)).json()["results"]
    assert [result["label"] for result in results] == ["dog", None]


async def test_logits_are_the_cosines(http: Client) -> None:
    options = {"labels": ["dog", "tax"], "output": "logits", **BARE}
    [result] = (await http.classify("hund", **options)).json()["results"]
    assert scores_of(result) == pytest.approx({"dog": 1, "tax": 0}, abs=1e-6)


async def test_a_description_is_read_in_place_of_the_name(http: Client) -> None:
    labels = {"one": "dog", "other": "cat"}
    [result] = (await http.classify("katt", labels=labels, **BARE)).json()["results"]
    assert result["label"] == "other"


async def test_the_template_is_read_around_the_label(http: Client) -> None:
    options = {"labels": ["dog", "cat"], "output": "logits", "template": "{} tax"}
    [result] = (await http.classify("hund", **options)).json()["results"]
    assert scores_of(result) == pytest.approx({"dog": 1 / math.sqrt(2), "cat": 0}, abs=1e-6)
    [result] = (await http.classify("hund", **options | {"template": "{{}} tax"})).json()["results"]
    assert scores_of(result)["dog"] == pytest.approx(0, abs=1e-6), "{hund} is no word it knows"


async def test_label_tokens_are_counted_each_time_and_run_once(http: Client) -> None:
    for _ in range(2):
        answer = await http.classify("katt katt", labels=["dog", "cat tax"], **BARE)
        assert answer.json()["usage"] == {"texts": 1, "tokens": 4 + 3 + 4, "truncated": []}
    assert http.value("cache_texts_total", outcome="miss") == 2
    assert http.value("cache_texts_total", outcome="hit") == 2
    assert 0 < http.value("cache_bytes") < LABEL_CACHE_BYTES
    assert (
        http.value(
            "request_duration_seconds_count", route="/classify", task="zero-shot", model="toy"
        )
        == 2
    )


async def test_the_same_labels_at_once_are_run_once(http: Client) -> None:
    asked = [http.classify("hund", labels=["dog", "cat"], **BARE) for _ in range(8)]
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
    assert http.value("tokens_total", kind="real") == 9  # "hund", "dog" and "cat", once each


async def test_texts_may_be_cut_and_labels_never(http: Client) -> None:
    long = "hund " * 9
    cut = await http.classify(long, labels=["dog", "cat"], truncate=True, **BARE)
    assert cut.json()["usage"]["truncated"] == [0]
    refused = await http.classify("hund", labels=["dog", long], truncate=True, **BARE)
    assert refused.status_code == 422
    assert refused.json()["error"] == {
        "code": "invalid_input",
        "message": "labels[1] has 11 tokens in its template; this model accepts 8",
        "param": "labels[1]",
    }


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"labels": []}, "labels", "labels has 0 items; send 2 to 256"),
        ({"labels": ["a"]}, "labels", "labels has 1 items; send 2 to 256"),
        ({"labels": {}, "multi_label": True}, "labels", "labels has 0 items; send 1 to 256"),
        (
            {"labels": [str(n) for n in range(MAX_LABELS + 1)]},
            "labels",
            "labels has 257 items; send 2 to 256",
        ),
        ({"labels": ["a", "b", "a"]}, "labels[2]", "labels[2] repeats labels[0]"),
        ({"labels": ["a", " "]}, "labels[1]", "labels[1] is empty or only white space"),
        (
            {"labels": {"a": "b", "c": "\t"}},
            "labels['c']",
            "labels['c'] is empty or only white space",
        ),
        ({"labels": ["a", 1]}, "labels[1]", "labels[1]: Input should be a valid string"),
        ({"labels": {"a": 1}}, "labels.a", "labels.a: Input should be a valid string"),
        ({"labels": "a, b"}, "labels", "labels: Input should be a valid array"),
        (
            {"labels": ["a", "b"], "template": "about"},
            "template",
            "template has {} 0 times; it must have it once, where the label goes",
        ),
        (
            {"labels": ["a", "b"], "template": "{} or {}"},
            "template",
            "template has {} 2 times; it must have it once, where the label goes",
        ),
        (
            {"labels": ["a", "b"], "template": "{}" + "x" * 1_023},
            "template",
            "template has 1025 characters; send 1024 at most",
        ),
        (
            {"labels": ["a", "x" * 257]},
            "labels[1]",
            "labels[1] has 257 characters; send 256 at most, and say the rest as a description",
        ),
        (
            {"labels": {"a": "a", "x" * 257: "b"}},
            f"labels['{'x' * 64}…']",
            f"labels['{'x' * 64}…'] has 257 characters; send 256 at most, and say the rest as a "
            "description",
        ),
        ({"template": "{}"}, "template", "template says how labels are read; send labels"),
        ({"multi_label": True}, "multi_label", "multi_label says how labels are read; send labels"),
        (
            {"labels": ["a", "b"], "task": "topic"},
            "labels",
            "task and labels exclude each other; send one of them",
        ),
        (
            {"labels": ["a", "b"], "texts": [["hund", "katt"]]},
            "texts[0]",
            "zero-shot reads single texts; texts[0] is a pair",
        ),
    ],
)
async def test_what_is_wrong_with_labels_is_named(
    http: Client, body: dict[str, Any], param: str, message: str
) -> None:
    answer = await http.post("/classify", json={"texts": "hund", **body})
    assert answer.status_code == 422
    assert answer.json()["error"] == {"code": "invalid_input", "message": message, "param": param}


async def test_a_deadline_counts_from_the_labels_on(model_dir: Path) -> None:
    engine = Engine.load(Settings(model_dir=model_dir), Metrics())
    await engine.start()
    with pytest.raises(DeadlineExceededError, match="1000 ms"):
        await engine._forward(
            ["hund"], truncate=False, terms=Terms(timeout_s=1), began_at=perf_counter() - 2
        )
    await engine.stop()


labels_of_words = st.lists(st.sampled_from(WORDS), min_size=2, max_size=6, unique=True)
some_texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5)


async def scores(
    model_dir: Path, calls: list[tuple[list[str], list[str]]], *, multi_label: bool
) -> list[np.ndarray]:
    """What one engine says, call by call: (B, C) each."""
    engine = Engine.load(Settings(model_dir=model_dir), Metrics())
    await engine.start()
    try:
        return [
            (await engine.zero_shot(texts, labels, template="{}", multi_label=multi_label)).scores
            for texts, labels in calls
        ]
    finally:
        await engine.stop()


@given(some_texts, labels_of_words, st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_labels_and_the_company_of_texts_change_nothing(
    model_dir: Path, texts: list[str], labels: list[str], multi_label: bool, chance: Random
) -> None:
    shuffled = chance.sample(labels, len(labels))
    calls = [(texts, labels), (texts, shuffled), *(([text], labels) for text in texts)]
    given_scores, permuted, *alone = asyncio.run(scores(model_dir, calls, multi_label=multi_label))
    places = [shuffled.index(label) for label in labels]
    np.testing.assert_allclose(permuted[:, places], given_scores, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(alone), given_scores, atol=1e-6)
    assert ((given_scores >= 0) & (given_scores <= 1)).all()
    if not multi_label:
        np.testing.assert_allclose(given_scores.sum(axis=1), 1, atol=1e-6)


@given(st.text(max_size=20), st.lists(st.text(max_size=5), max_size=4), st.booleans())
def test_any_labels_and_template_are_read_or_refused(
    template: str, labels: list[str], multi_label: bool
) -> None:
    try:
        chosen = choice(labels, template=template, multi_label=multi_label)
    except InputError:
        fit = len(labels) >= (1 if multi_label else 2) and all(map(str.strip, labels))
        assert not (fit and len(set(labels)) == len(labels) and template.count("{}") == 1)
    else:
        before, after = template.split("{}")
        assert list(chosen.hypotheses) == [before + label + after for label in labels]


def classify_rows(model_dir: Path, tmp_path: Path, *options: str) -> Result:
    (tmp_path / "rows.txt").write_text("hund\nkatt katt\n")
    return lightmbert("classify", "--model-dir", model_dir, *options, tmp_path / "rows.txt")


def test_the_command_line_takes_labels(model_dir: Path, tmp_path: Path) -> None:
    options = ("--labels", "dog, cat", "--template", "{}")
    result = classify_rows(model_dir, tmp_path, *options)
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["label"] for line in result.stdout.splitlines()] == ["dog", "cat"]
    result = classify_rows(model_dir, tmp_path, "--labels", "dog", "--multi-label")
    assert [json.loads(line)["label"] for line in result.stdout.splitlines()] == ["dog", "dog"]


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--labels", "dog"], 1, "labels has 1 items; send 2 to 256"),
        (["--labels", "dog,cat,dog"], 1, "labels[2] repeats labels[0]"),
        (["--labels", "dog,cat", "--task", "topic"], 2, "--task and --labels exclude each other"),
        (["--template", "{}"], 2, "--template and --multi-label say how --labels are read"),
        (["--labels", "dog,cat", "--template", "of"], 1, "template has {} 0 times"),
    ],
)
def test_what_is_wrong_with_labels_is_told_in_one_line(
    model_dir: Path, tmp_path: Path, options: list[str], status: int, message: str
) -> None:
    result = classify_rows(model_dir, tmp_path, *options)
    assert result.exit_code == status
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
