"""OpenAI's embeddings: its bodies, its errors, and what its clients do by default."""

import base64
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Client, full, gated, serving
from toy_student import MAX_TOKENS, write_model_dir

PATH = "/v1/embeddings"


@pytest.fixture
async def http(toy_model_dir: Path) -> AsyncIterator[Client]:
    async with serving(toy_model_dir) as client:
        yield client


async def test_an_answer_has_openais_shape(http: Client) -> None:
    half = math.sqrt(0.5)
    answer = await http.post(PATH, json={"input": ["tax", "katt hund"], "model": "toy"})
    assert answer.status_code == 200
    assert answer.json() == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": pytest.approx([0, 0, 1, 0])},
            {"object": "embedding", "index": 1, "embedding": pytest.approx([half, half, 0, 0])},
        ],
        "model": "toy",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


async def test_a_text_alone_is_a_list_of_one_and_the_model_may_be_left_out(http: Client) -> None:
    answer = (await http.post(PATH, json={"input": "katt"})).json()
    assert [each["embedding"] for each in answer["data"]] == [[0, 1, 0, 0]]


async def test_base64_holds_the_float32_numbers_that_json_holds(http: Client) -> None:
    body = {"input": ["hund katt katt", "tax"], "model": "toy"}
    plain = (await http.post(PATH, json=body | {"encoding_format": "float"})).json()["data"]
    coded = (await http.post(PATH, json=body | {"encoding_format": "base64"})).json()["data"]
    for one, other in zip(plain, coded, strict=True):
        decoded = np.frombuffer(base64.b64decode(other["embedding"]), dtype="<f4")
        assert decoded.tolist() == pytest.approx(one["embedding"])


async def test_fewer_dimensions_are_scaled_to_length_1_again(http: Client) -> None:
    answer = (await http.post(PATH, json={"input": "hund tax", "dimensions": 2})).json()
    assert answer["data"][0]["embedding"] == pytest.approx([1, 0])


async def test_what_is_null_or_about_the_user_changes_nothing(http: Client) -> None:
    options = dict.fromkeys(("model", "dimensions", "encoding_format")) | {"user": "u-1"}
    answer = await http.post(PATH, json={"input": "katt", **options})
    assert answer.json()["data"][0]["embedding"] == [0, 1, 0, 0]


async def test_2048_inputs_are_answered_in_their_order(http: Client) -> None:
    words = ["hund", "katt", "tax", "dog"] * 512
    answer = (await http.post(PATH, json={"input": words})).json()
    assert [each["index"] for each in answer["data"]] == list(range(2_048))
    best = [int(np.argmax(each["embedding"])) for each in answer["data"]]
    assert best == [0, 1, 2, 0] * 512


@pytest.mark.parametrize("ids", [[101, 7592, 102], [[101, 102], [103]], [[]]])
async def test_foreign_token_ids_are_refused_with_the_cure(http: Client, ids: list[Any]) -> None:
    answer = await http.post(PATH, json={"input": ids, "model": "toy"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "check_embedding_ctx_length=False" in error.pop("message")
    assert error == {"type": "invalid_request_error", "param": "input", "code": "invalid_input"}


INVALID = {"type": "invalid_request_error", "code": "invalid_input"}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "input", "input: Field required"),
        ({"input": None}, "input", "input: Input should be a valid array"),
        ({"input": ["a", " "]}, "input[1]", "input[1] is empty or only white space"),
        ({"input": ["a", 5]}, "input[1]", "input[1]: Input should be a valid string"),
        ({"input": "a", "texts": "b"}, "texts", "texts: unknown key"),
        ({"input": "a", "dimensions": 5}, "dimensions", "dimensions is 5; this model gives 1 to 4"),
        (
            {"input": "a", "encoding_format": "hex"},
            "encoding_format",
            "encoding_format: Input should be 'float' or 'base64'",
        ),
        ({"input": math.nan}, "input", "input: Input should be a valid array"),
        (
            {"input": "a", "dimensions": math.inf},
            "dimensions",
            "dimensions: Input should be a valid integer",
        ),
        ([], None, "the body: Input should be an object"),
    ],
)
async def test_what_is_wrong_is_a_400_that_names_it(
    http: Client, body: object, param: str | None, message: str
) -> None:
    answer = await http.post(PATH, content=json.dumps(body))  # as lenient as Python: NaN too
    assert answer.status_code == 400
    assert answer.json() == {"error": INVALID | {"message": message, "param": param}}


async def test_no_text_at_all_is_a_400(http: Client) -> None:
    answer = await http.post(PATH, json={"input": []})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "input is empty; send 1 to 2048"


async def test_a_text_too_long_is_refused_and_nothing_is_offered_that_openai_has_not(
    http: Client,
) -> None:
    answer = await http.post(PATH, json={"input": ["hund", "hund " * MAX_TOKENS]})
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "input[1] has 10 tokens; this model accepts 8",
        "type": "invalid_request_error",
        "param": "input[1]",
        "code": "context_length_exceeded",
    }


async def test_another_model_is_not_found_and_the_served_one_named(http: Client) -> None:
    error = {
        "message": "model 'text-embedding-3-small' is not served here; served: toy",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    name = "text-embedding-3-small"
    for answer in (
        await http.post(PATH, json={"input": "hund", "model": name}),
        await http.get(f"/v1/models/{name}"),
    ):
        assert answer.status_code == 404
        assert answer.json() == {"error": error}


@pytest.mark.parametrize("content", [b"", b"{", b"not JSON", b"[" * 10_000])
async def test_no_json_is_a_400(http: Client, content: bytes) -> None:
    answer = await http.post(PATH, content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "malformed_body"


async def test_a_list_of_wrong_things_is_told_by_its_first(http: Client) -> None:
    for wrong in ([None] * 10_000, [{}] * 10_000, ["hund", *[[]] * 10_000]):
        answer = await http.post(PATH, json={"input": wrong})
        assert answer.status_code == 400
        assert len(answer.content) < 500


async def test_errors_of_the_service_have_openais_shape_too(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, api_key="key", max_body_bytes=100) as http:
        keyless = await http.post(PATH, json={"input": "hund"})
        http.headers["authorization"] = "Bearer key"
        large = await http.post(PATH, json={"input": "hund " * 100})
        elsewhere = await http.get(PATH)
        await http.service.stop()
        leaving = await http.post(PATH, json={"input": "hund"})
    assert keyless.headers["www-authenticate"] == "Bearer"
    assert leaving.headers["retry-after"] == "1"
    told = [(answer.status_code, answer.json()["error"]) for answer in (keyless, large, leaving)]
    assert [(status, error["type"], error["code"]) for status, error in told] == [
        (401, "invalid_request_error", "invalid_api_key"),
        (413, "invalid_request_error", "body_too_large"),
        (503, "server_error", "not_ready"),
    ]
    assert elsewhere.status_code == 405
    assert set(elsewhere.json()["error"]) == {"message", "type", "param", "code"}


async def test_who_comes_too_many_is_told_when_to_come_back(toy_model_dir: Path) -> None:
    async with full(toy_model_dir) as http:
        answer = await http.post(PATH, json={"input": "hund"})
        assert answer.status_code == 429
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(answer.headers["retry-after"]) >= 1
        assert int(answer.headers["retry-after-ms"]) >= 1


async def test_a_model_that_fails_is_a_server_error(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir) as (http, engine):
        engine.session.failure = RuntimeError("broken")
        engine.session.gate.release(20)
        answer = await http.post(PATH, json={"input": "hund"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"


async def test_models_are_listed_and_shown(http: Client) -> None:
    model = {"id": "toy", "object": "model", "created": 1_767_225_600, "owned_by": "lightmbert"}
    assert (await http.get("/v1/models")).json() == {"object": "list", "data": [model]}
    assert (await http.get("/v1/models/toy")).json() == model


async def test_all_below_v1_is_told_as_openai_does(http: Client) -> None:
    for path, status in (("models", 405), ("models/toy", 405), ("chat/completions", 404)):
        wrong = await http.post(f"/v1/{path}")
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (
            status,
            "invalid_request_error",
        )


async def test_a_model_of_no_known_date_is_listed(tmp_path: Path) -> None:
    def undated(manifest: dict[str, Any]) -> None:
        manifest["provenance"]["created"] = "long ago"

    async with serving(write_model_dir(tmp_path / "toy", undated)) as http:
        assert (await http.get("/v1/models")).json()["data"][0]["created"] == 0


async def test_models_are_shown_to_who_has_the_key(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, api_key="key") as http:
        for path in ("/v1/models", "/v1/models/toy"):
            answer = await http.get(path)
            assert answer.status_code == 401
            assert json.loads(answer.content)["error"]["code"] == "invalid_api_key"


async def test_requests_are_counted_and_timed(http: Client) -> None:
    await http.post(PATH, json={"input": "hund"})
    await http.post(PATH, json={"input": "hund", "model": "big"})
    assert http.value("requests_total", route=PATH, status="200") == 1
    assert http.value("requests_total", route=PATH, status="404") == 1
    labels = {"route": PATH, "task": "embed", "model": "toy"}
    assert http.value("request_duration_seconds_count", **labels) == 1
    assert http.value("errors_total", code="unknown_model") == 1
