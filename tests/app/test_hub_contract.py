"""`POST /` as Hugging Face's client asks it, and its two other names."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from serving import Client, gated, serving
from toy_student import MAX_TOKENS

SURE = pytest.approx(1 / (1 + math.exp(-4 / 3)))


@pytest.fixture
async def http(toy_model_dir: Path) -> AsyncIterator[Client]:
    async with serving(toy_model_dir, default_task="topic") as client:
        yield client


async def ask(http: Client, body: dict[str, Any], path: str = "/") -> Any:  # noqa: ANN401 - JSON
    answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("path", ["/", "/invocations"])
async def test_what_the_body_holds_says_for_which_task(http: Client, path: str) -> None:
    vector = await ask(http, {"inputs": "hund", "normalize": True, "truncate": True}, path)
    assert vector == [[1, 0, 0, 0]]
    compared = {"source_sentence": "hund", "sentences": ["dog", "tax"]}
    assert await ask(http, {"inputs": compared, "parameters": {}}, path) == [1, 0]
    [labels] = await ask(http, {"inputs": "hund", "parameters": {}}, path)
    assert labels[0] == {"label": "animals", "score": SURE}
    parameters = {"candidate_labels": ["tax", "dog"], "hypothesis_template": "{}"}
    chosen = await ask(http, {"inputs": "hund", "parameters": parameters}, path)
    assert [each["label"] for each in chosen] == ["dog", "tax"]


async def test_a_list_of_labels_for_each_text(http: Client) -> None:
    answer = await ask(http, {"inputs": ["hund", "tax"], "parameters": {"top_k": 1}})
    assert [[each["label"] for each in labels] for labels in answer] == [["animals"], ["money"]]


@pytest.mark.parametrize(
    ("function", "scores"),
    [("none", [4 / 3, 0]), ("sigmoid", [0.791391, 0.5]), ("softmax", [0.791391, 0.208609])],
)
async def test_scores_are_given_by_the_function_asked_for(
    http: Client, function: str, scores: list[float]
) -> None:
    parameters = {"function_to_apply": function}
    [labels] = await ask(http, {"inputs": "hund", "parameters": parameters})
    assert [each["score"] for each in labels] == pytest.approx(scores, rel=1e-4)


async def test_pairs_are_read_by_a_head_of_the_query(http: Client) -> None:
    [labels] = await ask(http, {"inputs": [["hund", "dog"]], "parameters": {}}, "/?task=same")
    assert {each["label"] for each in labels} == {"yes", "no"}


async def test_labels_of_the_callers_own_for_one_text_and_for_several(http: Client) -> None:
    parameters = {
        "candidate_labels": ["tax", "dog"],
        "hypothesis_template": "{}",
        "multi_label": True,
    }
    alone = await ask(http, {"inputs": "hund", "parameters": parameters})
    assert [each["label"] for each in alone] == ["dog", "tax"]
    several = await ask(http, {"inputs": ["hund", "tax"], "parameters": parameters})
    assert several[0] == alone
    assert [each["label"] for each in several[1]] == ["tax", "dog"]


async def test_long_texts_are_cut_and_the_cut_is_said(http: Client) -> None:
    long = "hund " * MAX_TOKENS
    for parameters in ({}, {"candidate_labels": ["tax", "dog"], "hypothesis_template": "{}"}):
        answer = await http.post("/", json={"inputs": long, "parameters": parameters})
        assert answer.status_code == 200
        assert answer.headers["x-lightmbert-truncated-texts"] == "1"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"parameters": {}}, "inputs: Field required"),
        ({"inputs": "a", "parameters": None}, "parameters: Input should be an object"),
        ({"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k: Input should be greater"),
        ({"inputs": "a", "parameters": {"topk": 1}}, "parameters.topk: unknown key"),
        ({"inputs": ["a", 1], "parameters": {}}, "inputs[1]: Input should be a valid string"),
        (
            {"inputs": "a", "parameters": {"candidate_labels": ["b"]}},
            "parameters.candidate_labels has 1 items",
        ),
        (
            {"inputs": "a", "parameters": {"candidate_labels": ["b", " "]}},
            "parameters.candidate_labels[1] is empty",
        ),
        (
            {"inputs": "a", "parameters": {"candidate_labels": "b,c"}},
            "parameters.candidate_labels: Input should be a valid list",
        ),
        (
            {
                "inputs": "a",
                "parameters": {"candidate_labels": ["b", "c"], "hypothesis_template": "no gap"},
            },
            "parameters.hypothesis_template has {} 0 times",
        ),
        (
            {"inputs": ["a", 1], "parameters": {"candidate_labels": ["b", "c"]}},
            "inputs[1]: Input should be a valid string",
        ),
        ({"inputs": {}}, "inputs.source_sentence: Field required"),
    ],
)
async def test_what_is_wrong_is_named_as_it_was_sent(
    http: Client, body: dict[str, Any], message: str
) -> None:
    answer = await http.post("/", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(message)
    assert answer.json()["error_type"] == "Validation"


@pytest.mark.parametrize("body", [[], "inputs", 1, None])
async def test_a_body_that_is_no_object_is_refused(http: Client, body: object) -> None:
    answer = await http.post("/", content=json.dumps(body))
    assert answer.status_code == 422
    assert answer.json() == {
        "error": "the body: Input should be an object",
        "error_type": "Validation",
    }


async def test_several_bodies_are_answered_in_one(http: Client) -> None:
    bodies: list[dict[str, Any]] = [
        {"inputs": "hund"},
        {"inputs": "hund", "parameters": {}},
        {"inputs": {"source_sentence": "hund", "sentences": ["dog"]}},
        {"inputs": ["katt", "katt " * MAX_TOKENS]},
    ]
    answer = await http.post("/vertex", json={"instances": bodies})
    assert answer.headers["x-lightmbert-truncated-texts"] == "1"
    assert answer.json() == {"predictions": [await ask(http, body) for body in bodies]}


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ([], "instances has 0 items; send 1 to 2048"),
        ([{"inputs": "a"}] * 2_049, "instances has 2049 items; send 1 to 2048"),
        ([{"inputs": "a"}, {"inputs": 1}], "instances[1]: inputs: "),
        ([{"inputs": "a"}, {"inputs": " "}], "instances[1]: inputs[0] is empty"),
        ([{"inputs": "a", "parameters": 1}], "instances[0]: parameters: Input should be an object"),
        ([{"inputs": "a"}, 1], "instances[1]: Input should be an object"),
    ],
)
async def test_of_several_bodies_the_wrong_one_is_named(
    http: Client, instances: list[Any], message: str
) -> None:
    answer = await http.post("/vertex", json={"instances": instances})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(message)


async def test_many_small_bodies_wait_as_one_large_request(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir, bulk_texts=2) as (http, engine):
        for bodies, priority in ((1, "interactive"), (2, "bulk")):
            sent = {"instances": [{"inputs": "hund"}] * bodies}
            waiting = asyncio.create_task(http.post("/vertex", json=sent))
            await engine.has_begun()
            assert {each.priority for each in engine._scheduler._requests} == {priority}
            engine.session.gate.release(2)
            assert (await waiting).status_code == 200


async def test_what_vertex_ai_sends_beside_them_must_be_empty(http: Client) -> None:
    for parameters, status in ((None, 200), ({}, 200), ({"top_k": 1}, 422)):
        body = {"instances": [{"inputs": "hund"}], "parameters": parameters}
        assert (await http.post("/vertex", json=body)).status_code == status


async def test_the_page_is_not_counted_as_work(http: Client) -> None:
    await http.get("/")
    assert all(
        http.value("requests_total", route="/", status=status) == 0 for status in ("200", "405")
    )
