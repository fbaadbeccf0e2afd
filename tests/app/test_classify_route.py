import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from serving import Client, gated, serving
from toy_student import write_model_dir


@pytest.fixture
async def http(toy_model_dir: Path) -> AsyncIterator[Client]:
    async with serving(toy_model_dir) as client:
        yield client


def softmax_of_first(difference: float) -> float:
    """Probability of a label whose logit is larger by `difference` than the only other one."""
    return 1 / (1 + math.exp(-difference))


async def test_results_come_in_the_order_of_the_texts_and_labels_best_first(http: Client) -> None:
    answer = (await http.classify(["tax", "hund"], task="topic")).json()
    sure = pytest.approx(softmax_of_first(4 / 3))  # one word of three tokens
    unsure = pytest.approx(1 - softmax_of_first(4 / 3))
    assert (answer["model"], answer["task"]) == ("toy", "topic")
    assert answer["results"] == [
        {
            "label": "money",
            "score": sure,
            "scores": [{"label": "money", "score": sure}, {"label": "animals", "score": unsure}],
        },
        {
            "label": "animals",
            "score": sure,
            "scores": [{"label": "animals", "score": sure}, {"label": "money", "score": unsure}],
        },
    ]
    assert answer["usage"] == {"texts": 2, "tokens": 6, "truncated": []}


async def test_top_k_gives_the_best_labels_only(http: Client) -> None:
    [result] = (await http.classify("hund", task="topic", top_k=1)).json()["results"]
    assert [score["label"] for score in result["scores"]] == ["animals"]


async def test_a_threshold_hides_labels_and_leaves_no_label_where_none_reaches_it(
    http: Client,
) -> None:
    results = (await http.classify(["hund", "zebra"], task="topic", threshold=0.6)).json()[
        "results"
    ]
    assert [score["label"] for score in results[0]["scores"]] == ["animals"]
    assert results[1] == {"label": None, "score": 0.5, "scores": []}


async def test_logits_are_given_raw_and_the_threshold_still_means_probability(http: Client) -> None:
    options = {"task": "topic", "output": "logits", "threshold": 0.6}
    [result] = (await http.classify("hund", **options)).json()["results"]
    assert result["scores"] == [{"label": "animals", "score": pytest.approx(4 / 3)}]


async def test_pairs_are_read_as_pairs(http: Client) -> None:
    answer = (await http.classify([["hund", "dog"], ["hund", "tax"]], task="same")).json()
    best = [result["scores"][0] for result in answer["results"]]
    assert best[0] == {"label": "yes", "score": 0.5}  # agreement 1, and 1 is the middle
    assert best[1] == {"label": "no", "score": pytest.approx(softmax_of_first(1))}


async def test_a_multi_label_head_uses_sigmoids(http: Client) -> None:
    [result] = (await http.classify([["hund hund", "dog dog"]], task="same")).json()["results"]
    by_label = {score["label"]: score["score"] for score in result["scores"]}
    assert by_label == {
        "yes": pytest.approx(softmax_of_first(3)),
        "no": pytest.approx(softmax_of_first(-3)),
    }


async def test_a_pair_too_long_loses_the_end_of_its_longer_text(http: Client) -> None:
    pair = ["hund tax tax tax tax tax", "dog"]
    answer = (await http.classify([pair], task="same", truncate=True)).json()
    assert answer["usage"] == {"texts": 1, "tokens": 8, "truncated": [0]}
    # with "dog" cut away the agreement, and with it the score, would be another
    assert answer["results"][0]["scores"][0] == {"label": "yes", "score": 0.5}


async def test_texts_to_embed_and_to_classify_share_one_forward_pass(toy_model_dir: Path) -> None:

    async with gated(toy_model_dir) as (http, engine):
        first = asyncio.create_task(http.embed("hund"))
        await engine.has_begun()
        second = asyncio.create_task(http.embed("katt"))
        third = asyncio.create_task(http.classify("tax", task="topic"))
        fourth = asyncio.create_task(http.classify([["tax", "hund"]], task="same"))
        while http.value("queue_texts") != 3:
            await asyncio.sleep(0)
        engine.session.gate.release(2)
        assert await engine.has_begun() == 3
        for answer in await asyncio.gather(first, second, third, fourth):
            assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "code", "param", "message"),
    [
        (
            {"texts": "hund", "task": "tone"},
            "unknown_task",
            "task",
            "task 'tone' is unknown; this model's tasks: same, topic",
        ),
        (
            {"texts": "hund"},
            "unknown_task",
            "task",
            "task is required; this model's tasks: same, topic",
        ),
        (
            {"texts": ["a", "b"], "task": "same"},
            "invalid_input",
            "texts[0]",
            "task 'same' reads pairs; texts[0] is one text",
        ),
        (
            {"texts": ["a", ["a", "b"]], "task": "topic"},
            "invalid_input",
            "texts[1]",
            "task 'topic' reads single texts; texts[1] is a pair",
        ),
        (
            {"texts": [["a", " "]], "task": "same"},
            "invalid_input",
            "texts[0]",
            "texts[0] is empty or only white space",
        ),
        (
            {"texts": "a", "task": "topic", "top_k": 0},
            "invalid_input",
            "top_k",
            "top_k: Input should be greater than 0",
        ),
        (
            {"texts": "a", "task": "topic", "threshold": 1.5},
            "invalid_input",
            "threshold",
            "threshold: Input should be less than or equal to 1",
        ),
        (
            {"texts": "a", "task": "topic", "labels": ["x", "y"]},
            "invalid_input",
            "labels",
            "task and labels exclude each other; send one of them",
        ),
    ],
)
async def test_what_is_wrong_is_named(
    http: Client, body: dict[str, Any], code: str, param: str, message: str
) -> None:
    answer = await http.post("/classify", json=body)
    assert answer.status_code == 422
    assert answer.json() == {"error": {"code": code, "message": message, "param": param}}


@pytest.mark.parametrize("pair", [["a"], ["a", "b", "c"], ["a", 1]])
async def test_a_pair_is_two_strings(http: Client, pair: list[Any]) -> None:
    answer = await http.classify([pair], task="same")
    assert answer.status_code == 422
    assert answer.json()["error"]["param"].startswith("texts[0]")


async def test_the_task_may_be_left_out_where_there_is_one(tmp_path: Path) -> None:
    def one_head(manifest: dict[str, Any]) -> None:
        del manifest["tasks"]["same"]

    async with serving(write_model_dir(tmp_path / "toy", one_head)) as http:
        assert (await http.classify("hund")).json()["task"] == "topic"


async def test_the_tasks_own_threshold_counts_until_the_caller_sends_another(
    tmp_path: Path,
) -> None:
    def strict(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["topic"]["threshold"] = 0.9

    async with serving(write_model_dir(tmp_path / "toy", strict)) as http:
        assert (await http.classify("hund", task="topic")).json()["results"][0]["scores"] == []
        [result] = (await http.classify("hund", task="topic", threshold=0)).json()["results"]
        assert len(result["scores"]) == 2


async def test_temperature_divides_the_logits(tmp_path: Path) -> None:
    def cool(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["topic"]["temperature"] = 2.0
        manifest["golden"][0]["probabilities"] = {}

    async with serving(write_model_dir(tmp_path / "toy", cool)) as http:
        [result] = (await http.classify("hund", task="topic")).json()["results"]
        assert result["score"] == pytest.approx(softmax_of_first(4 / 3 / 2))


@pytest.mark.parametrize("top_k", [2, 2**63, 10**30])
async def test_more_labels_than_there_are_gives_all(http: Client, top_k: int) -> None:
    answer = await http.classify("hund", task="topic", top_k=top_k)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["results"][0]["scores"]) == 2


async def test_a_default_task_may_be_set_and_another_still_be_asked(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, default_task="topic") as http:
        assert (await http.classify("hund")).json()["task"] == "topic"
        assert (await http.classify([["hund", "dog"]], task="same")).json()["task"] == "same"


async def test_a_default_task_that_the_model_has_not_is_none(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, default_task="tone") as http:
        answer = await http.classify("hund")
        assert (
            answer.json()["error"]["message"] == "task is required; this model's tasks: same, topic"
        )


@pytest.mark.parametrize(
    ("output", "second"), [("sigmoid", 0.5), ("softmax", 1 - softmax_of_first(4 / 3))]
)
async def test_scores_are_given_by_the_function_that_is_asked_for(
    http: Client, output: str, second: float
) -> None:
    [result] = (await http.classify("hund", task="topic", output=output)).json()["results"]
    first = softmax_of_first(4 / 3)  # by either, as the other logit is 0
    assert result["score"] == pytest.approx(first)
    assert [each["score"] for each in result["scores"]] == pytest.approx([first, second])
