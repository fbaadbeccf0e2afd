"""Infinity: its bodies, its stamps, and its two kinds of error."""

import base64
import math
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Client, full, gated, serving
from toy_student import MAX_TOKENS

SURE = pytest.approx(1 / (1 + math.exp(-4 / 3)))
STAMP = re.compile(r"infinity-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
async def http(toy_model_dir: Path) -> AsyncIterator[Client]:
    async with serving(toy_model_dir, default_task="topic") as client:
        yield client


def unstamped(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without its id and time, which have been looked at."""
    assert STAMP.fullmatch(answer.pop("id"))
    assert abs(answer.pop("created") - time.time()) < 60
    return answer


@pytest.mark.parametrize("model", [{}, {"model": "default/not-specified"}, {"model": "toy"}])
async def test_embeddings_have_openais_shape_and_a_stamp(
    http: Client, model: dict[str, str]
) -> None:
    answer = await http.post("/embeddings", json={"input": ["tax", "katt"], **model})
    assert unstamped(answer.json()) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0, 0, 1, 0]},
            {"object": "embedding", "index": 1, "embedding": [0, 1, 0, 0]},
        ],
        "model": "toy",
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }


async def test_all_that_its_client_sends_is_understood(http: Client) -> None:
    options = {"encoding_format": "base64", "user": "u", "dimensions": 0, "modality": "text"}
    answer = await http.post("/embeddings", json={"input": "katt", **options})
    [data] = answer.json()["data"]
    decoded = np.frombuffer(base64.b64decode(data["embedding"]), dtype="<f4")
    assert decoded.tolist() == [0, 1, 0, 0]


async def test_fewer_dimensions_are_scaled_to_length_1_again(http: Client) -> None:
    answer = await http.post("/embeddings", json={"input": "hund tax", "dimensions": 2})
    assert answer.json()["data"][0]["embedding"] == pytest.approx([1, 0])


async def test_labels_come_best_first_for_each_text(http: Client) -> None:
    answer = await http.post("/classify", json={"input": ["hund", "tax"], "model": "toy"})
    assert unstamped(answer.json()) == {
        "object": "classify",
        "data": [
            [
                {"label": "animals", "score": SURE},
                {"label": "money", "score": pytest.approx(0.208609, rel=1e-4)},
            ],
            [
                {"label": "money", "score": SURE},
                {"label": "animals", "score": pytest.approx(0.208609, rel=1e-4)},
            ],
        ],
        "model": "toy",
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }


async def test_raw_scores_are_logits(http: Client) -> None:
    answer = await http.post("/classify", json={"input": ["hund"], "raw_scores": True})
    assert answer.json()["data"][0][0]["score"] == pytest.approx(4 / 3)


async def test_a_path_in_common_is_answered_by_what_the_body_holds(http: Client) -> None:
    for native in ({"texts": ["input"]}, {"texts": 'say "input"'}):
        assert "results" in (await http.post("/classify", json=native)).json()
    both = await http.post("/classify", json={"texts": "a", "input": ["b"]})
    assert both.json()["error"]["message"] == "texts and input exclude each other; send one of them"
    neither = await http.post("/classify", json={"inputs": "a"})
    assert neither.json()["error"]["message"] == "texts: Field required (and 1 more)"


@pytest.mark.parametrize(
    ("path", "sent"),
    [("/embeddings", "hund " * MAX_TOKENS), ("/classify", ["hund " * MAX_TOKENS])],
)
async def test_long_texts_are_cut_and_the_cut_is_said(
    http: Client, path: str, sent: object
) -> None:
    answer = await http.post(path, json={"input": sent})
    assert answer.status_code == 200
    assert answer.headers["x-lightmbert-truncated-texts"] == "1"
    assert answer.json()["usage"] == {"prompt_tokens": 8, "total_tokens": 8}


PROBLEMS = [
    ("/embeddings", {}, ["body", "input"], "input: Field required"),
    ("/embeddings", {"input": []}, ["body", "input"], "input is empty; send 1 to 2048"),
    ("/embeddings", {"input": ["a"] * 2_049}, ["body", "input"], "input has 2049 items; one"),
    ("/embeddings", {"input": ["a", 1]}, ["body", "input", 1], "input[1]: Input should be a valid"),
    ("/embeddings", {"input": [4, 5]}, ["body", "input"], "input: these are token ids"),
    ("/embeddings", {"input": [None] * 10_000}, ["body", "input", 0], "input[0]: Input should"),
    ("/embeddings", {"input": "a", "modality": "image"}, ["body", "modality"], "modality: Input"),
    ("/embeddings", {"input": "a", "texts": "b"}, ["body", "texts"], "texts: unknown key"),
    ("/embeddings", {"input": "a", "dimensions": -1}, ["body", "dimensions"], "dimensions: Input"),
    ("/classify", {"input": "a"}, ["body", "input"], "input: Input should be a valid array"),
    ("/classify", {"input": []}, ["body", "input"], "input is empty"),
    ("/classify", {"input": ["a", []]}, ["body", "input", 1], "input[1]: Input should be a valid"),
]


@pytest.mark.parametrize(("path", "body", "place", "message"), PROBLEMS)
async def test_what_a_schema_finds_is_a_list_of_problems(
    http: Client, path: str, body: dict[str, Any], place: list[Any], message: str
) -> None:
    answer = await http.post(path, json=body)
    assert answer.status_code == 422
    [problem] = answer.json()["detail"]
    assert problem["loc"] == place
    assert problem["msg"].startswith(message)
    assert len(answer.content) < 500


ERRORS = [
    ("/embeddings", {"input": "a", "model": "big"}, "unknown_model", "model", "model 'big' is not"),
    (
        "/embeddings",
        {"input": "a", "dimensions": 9},
        "invalid_input",
        "dimensions",
        "dimensions is 9",
    ),
    ("/embeddings", {"input": ["a", " "]}, "invalid_input", "input[1]", "input[1] is empty or"),
    ("/classify", {"input": ["a"], "model": "big"}, "unknown_model", "model", "model 'big' is not"),
    ("/classify?task=tone", {"input": ["a"]}, "unknown_task", "?task", "?task 'tone' is unknown"),
    (
        "/classify?task=same",
        {"input": ["a"]},
        "invalid_input",
        "input[0]",
        "task 'same' reads pairs",
    ),
]


@pytest.mark.parametrize(("path", "body", "kind", "param", "message"), ERRORS)
async def test_other_errors_of_the_caller_are_a_400(
    http: Client, path: str, body: dict[str, Any], kind: str, param: str, message: str
) -> None:
    answer = await http.post(path, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error.pop("message").startswith(message)
    assert error == {"type": kind, "param": param, "code": 400}


async def test_errors_of_the_service_have_infinitys_shape_too(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, api_key="key", max_body_bytes=100) as http:
        keyless = await http.post("/embeddings", json={"input": "hund"})
        listed = await http.get("/models")
        http.headers["authorization"] = "Bearer key"
        large = await http.post("/embeddings", json={"input": "hund " * 100})
        garbled = await http.post("/embeddings", content=b"{")
        await http.service.stop()
        leaving = await http.post("/embeddings", json={"input": "hund"})
    for answer in (keyless, listed):
        assert answer.status_code == 401
        assert answer.json() == {"detail": "a valid key is needed: Authorization: Bearer <key>"}
    assert (large.status_code, large.json()["error"]["code"]) == (413, 413)
    assert (leaving.status_code, leaving.json()["error"]["code"]) == (503, 503)
    assert garbled.status_code == 422
    assert garbled.json()["detail"][0]["loc"] == ["body"]


async def test_too_many_are_told_when_to_come_back(toy_model_dir: Path) -> None:
    async with full(toy_model_dir) as http:
        answer = await http.post("/embeddings", json={"input": "hund"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, 429)
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_model_that_fails_is_a_500(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir) as (http, engine):
        engine.session.failure = RuntimeError("broken")
        engine.session.gate.release(20)
        answer = await http.post("/classify?task=topic", json={"input": ["hund"]})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "inference_failed"


async def test_models_are_listed_with_what_they_can(http: Client) -> None:
    assert (await http.get("/models")).json() == {
        "object": "list",
        "data": [
            {
                "id": "toy",
                "stats": {"results_pending": 0},
                "object": "model",
                "owned_by": "infinity",
                "created": 1_767_225_600,
                "backend": "onnxruntime",
                "capabilities": ["embed", "classify"],
            }
        ],
    }


async def test_requests_are_counted_and_timed(http: Client) -> None:
    await http.post("/embeddings", json={"input": "hund"})
    await http.post("/classify", json={"input": ["hund"]})
    for route, task in (("/embeddings", "embed"), ("/classify", "topic")):
        labels = {"route": route, "task": task, "model": "toy"}
        assert http.value("request_duration_seconds_count", **labels) == 1
        assert http.value("requests_total", route=route, status="200") == 1
