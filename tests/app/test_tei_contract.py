"""Text Embeddings Inference: its bodies, its flat and nested answers, its errors."""

import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from serving import Client, full, gated, serving
from toy_student import MAX_TOKENS, WORDS

CLS, SEP, HUND, KATT = (list(WORDS).index(word) for word in ("[CLS]", "[SEP]", "hund", "katt"))
SURE = 1 / (1 + math.exp(-4 / 3))
"""Probability of the better of two labels for a text of one word."""
ANIMALS = [
    {"score": pytest.approx(SURE), "label": "animals"},
    {"score": pytest.approx(1 - SURE), "label": "money"},
]
MONEY = [
    {"score": pytest.approx(SURE), "label": "money"},
    {"score": pytest.approx(1 - SURE), "label": "animals"},
]


@pytest.fixture
async def http(toy_model_dir: Path) -> AsyncIterator[Client]:
    async with serving(toy_model_dir, default_task="topic") as client:
        yield client


async def ask(http: Client, path: str, inputs: object, **options: object) -> Any:  # noqa: ANN401 - JSON
    answer = await http.post(path, json={"inputs": inputs, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("inputs", "vectors"),
    [
        ("hund", [[1, 0, 0, 0]]),
        (["hund", "katt"], [[1, 0, 0, 0], [0, 1, 0, 0]]),
        ([CLS, HUND, SEP], [[1, 0, 0, 0]]),
        ([HUND], [[1, 0, 0, 0]]),
        ([[HUND], "katt", [KATT, KATT]], [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]),
    ],
)
async def test_texts_and_token_ids_are_embedded_always_in_a_list(
    http: Client, inputs: object, vectors: list[list[float]]
) -> None:
    assert await ask(http, "/embed", inputs) == vectors


async def test_vectors_are_scaled_and_cut_as_asked(http: Client) -> None:
    assert await ask(http, "/embed", "hund hund", normalize=False) == [[0.5, 0, 0, 0]]
    assert await ask(http, "/embed", "hund tax", dimensions=2) == [pytest.approx([1, 0])]


async def test_long_texts_are_cut_at_either_end_unless_refused_and_the_cut_is_said(
    http: Client,
) -> None:
    long = "katt " * MAX_TOKENS + "hund " * MAX_TOKENS
    for options, vector in (
        ({}, [0, 1, 0, 0]),
        ({"truncate": True, "truncation_direction": "Right"}, [0, 1, 0, 0]),
        ({"truncate": None, "truncation_direction": "Left"}, [1, 0, 0, 0]),
        ({"truncation_direction": "left"}, [1, 0, 0, 0]),
    ):
        answer = await http.post("/embed", json={"inputs": ["hund", long], **options})
        assert answer.json()[1] == vector, options
        assert answer.headers["x-lightmbert-truncated-texts"] == "1"
        assert answer.headers["x-compute-tokens"] == str(3 + MAX_TOKENS)
    refused = await http.post("/embed", json={"inputs": ["hund", long], "truncate": False})
    assert refused.status_code == 422
    assert refused.json() == {
        "error": "inputs[1] has 18 tokens; this model accepts 8. "
        "Shorten it, or send truncate=true to use its beginning",
        "error_type": "Validation",
    }


@pytest.mark.parametrize(
    ("inputs", "answer"),
    [
        ("hund", ANIMALS),
        (["hund"], ANIMALS),
        ([["hund"]], [ANIMALS]),
        ([["hund"], ["tax"]], [ANIMALS, MONEY]),
    ],
)
async def test_one_prediction_is_flat_and_several_are_nested(
    http: Client, inputs: object, answer: list[Any]
) -> None:
    assert await ask(http, "/predict", inputs) == answer


async def test_two_strings_are_one_pair(http: Client) -> None:
    flat = await ask(http, "/predict?task=same", ["hund", "dog"])
    [nested] = await ask(http, "/predict?task=same", [["hund", "dog"]])
    assert flat == nested
    assert {each["label"] for each in flat} == {"yes", "no"}
    assert len(flat) == 2


async def test_raw_scores_are_logits(http: Client) -> None:
    best, _ = await ask(http, "/predict", "hund", raw_scores=True)
    assert best == {"score": pytest.approx(4 / 3), "label": "animals"}


async def test_the_head_is_the_default_one_or_that_of_the_query(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        answer = await http.post("/predict", json={"inputs": "hund"})
        assert answer.status_code == 422
        assert answer.json()["error"] == "?task is required; this model's tasks: same, topic"
        assert await ask(http, "/predict?task=topic", "hund") == ANIMALS
        other = await http.post("/predict?task=topic&model=big", json={"inputs": "hund"})
        assert other.json()["error"] == "?model 'big' is not served here; served: toy"


async def test_similarity_is_the_cosine_of_each_sentence(http: Client) -> None:
    inputs = {"source_sentence": "hund", "sentences": ["dog", "hund katt", "tax"]}
    for options in ({}, {"parameters": {}}, {"parameters": {"truncate": True}}):
        found = await ask(http, "/similarity", inputs, **options)
        assert found == pytest.approx([1, math.sqrt(0.5), 0], abs=1e-6)


@pytest.mark.parametrize(
    ("source", "sentences", "status", "message"),
    [
        ("hund", [], 400, "inputs.sentences is empty; send 1 to 2047"),
        ("hund", ["a"] * 2_048, 422, "inputs.sentences has 2048 items; one request may hold 2047"),
        ("hund", ["a", " "], 422, "inputs.sentences[1] is empty or only white space"),
        (" ", ["a"], 422, "inputs.source_sentence is empty or only white space"),
        (1, ["a"], 422, "inputs.source_sentence: Input should be a valid string"),
    ],
)
async def test_what_cannot_be_compared_is_named(
    http: Client, source: object, sentences: list[str], status: int, message: str
) -> None:
    inputs = {"source_sentence": source, "sentences": sentences}
    answer = await http.post("/similarity", json={"inputs": inputs})
    assert (answer.status_code, answer.json()["error"]) == (status, message)


async def test_tokens_are_placed_in_bytes(http: Client) -> None:
    [tokens] = await ask(http, "/tokenize", "Hund zäh katt")
    framing = {"special": True, "start": None, "stop": None}
    assert tokens == [
        {"id": CLS, "text": "[CLS]"} | framing,
        {"id": HUND, "text": "Hund", "special": False, "start": 0, "stop": 4},
        {"id": 1, "text": "zäh", "special": False, "start": 5, "stop": 9},
        {"id": KATT, "text": "katt", "special": False, "start": 10, "stop": 14},
        {"id": SEP, "text": "[SEP]"} | framing,
    ]
    bare = await ask(http, "/tokenize", ["hund", "katt"], add_special_tokens=False)
    assert [[token["id"] for token in text] for text in bare] == [[HUND], [KATT]]


async def test_a_text_beyond_the_models_limit_is_tokenized_whole(http: Client) -> None:
    [tokens] = await ask(http, "/tokenize", "hund " * 1_000)
    assert len(tokens) == 1_002


@pytest.mark.parametrize(
    ("ids", "options", "texts"),
    [
        ([CLS, HUND, SEP], {}, ["hund"]),
        ([[HUND, KATT], []], {}, ["hund katt", ""]),
        ([CLS, HUND], {"skip_special_tokens": False}, ["[CLS] hund"]),
    ],
)
async def test_token_ids_are_told_as_text(
    http: Client, ids: object, options: dict[str, Any], texts: list[str]
) -> None:
    answer = await http.post("/decode", json={"ids": ids, **options})
    assert answer.json() == texts


async def test_so_much_text_at_once_is_refused_before_it_is_tokenized(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, max_queue_tokens=100) as http:
        for path, body, what in (
            ("/tokenize", {"inputs": ["hund" * 25, "k"]}, "inputs hold 101 characters"),
            ("/decode", {"ids": [HUND] * 101}, "ids hold 101 tokens"),
        ):
            answer = await http.post(path, json=body)
            assert answer.status_code == 422
            assert answer.json()["error"] == f"{what}; one request may hold 100. Send them in parts"


VALIDATION = [
    ("/embed", {"inputs": ["a", 1.5]}, "inputs[1]: Input should be a valid string"),
    ("/embed", {"inputs": [[4, "a"]]}, "inputs[0][1]: Input should be a valid integer"),
    ("/embed", {"inputs": [True]}, "inputs[0][0]: Input should be a valid integer"),
    ("/embed", {"inputs": ["a", ""]}, "inputs[1] is empty or only white space"),
    ("/embed", {"inputs": [CLS, SEP]}, "inputs[0] is empty or only white space"),
    ("/embed", {"inputs": ["a", [4, 99]]}, "inputs[0]: token 1 is 99; this model has 0 to 8"),
    ("/embed", {"inputs": [2**80]}, f"inputs[0]: token 0 is {2**80}; this model has 0 to 8"),
    ("/embed", {"inputs": "a", "prompt_name": "query"}, "prompt_name: this model has no prompts;"),
    ("/embed", {"inputs": "a", "pooling": "cls"}, "pooling: unknown key"),
    ("/embed", {"inputs": "a", "dimensions": 9}, "dimensions is 9; this model gives 1 to 4"),
    ("/embed", {"inputs": "a", "truncation_direction": "up"}, "truncation_direction: Input should"),
    ("/predict", {"inputs": ["a", "b", "c"]}, "inputs: this has 3 strings; a text is one"),
    ("/predict", {"inputs": [["a"], "b"]}, "inputs: item 1 is not a list; send [text] or"),
    ("/predict", {"inputs": [["a"], []]}, "inputs: item 1 has 0 strings; a text is one"),
    ("/predict", {"inputs": [["a", None]]}, "inputs: item 0 holds something else than strings"),
    ("/predict", {"inputs": {"a": 1}}, "inputs: send a text, a pair, or a list of lists"),
    ("/predict?task=tone", {"inputs": "a"}, "?task 'tone' is unknown; this model's tasks: "),
    ("/embed?model=big", {"inputs": "a"}, "?model 'big' is not served here; served: toy"),
    ("/predict", {"inputs": ["a", "b"]}, "task 'topic' reads single texts; inputs[0] is a pair"),
    ("/similarity", {"inputs": "a"}, "inputs: Input should be an object"),
    ("/tokenize", {"inputs": [4]}, "inputs[0]: Input should be a valid string"),
    ("/decode", {"ids": [-1]}, "ids[0][0]: Input should be greater than or equal to 0"),
    ("/decode", {"ids": [[4], [99]]}, "ids[1]: token 0 is 99; this model has 0 to 8"),
    ("/decode", {"ids": "4"}, "ids: Input should be a valid array"),
]


@pytest.mark.parametrize(("path", "body", "message"), VALIDATION)
async def test_what_is_wrong_is_named_and_of_the_type_validation(
    http: Client, path: str, body: dict[str, Any], message: str
) -> None:
    answer = await http.post(path, json=body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(message)
    assert answer.json() == {"error": answer.json()["error"], "error_type": "Validation"}


@pytest.mark.parametrize("path", ["/embed", "/predict", "/tokenize"])
async def test_nothing_at_all_is_empty(http: Client, path: str) -> None:
    answer = await http.post(path, json={"inputs": []})
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "inputs is empty; send 1 to 2048",
        "error_type": "Empty",
    }


async def test_a_path_in_common_is_answered_by_what_the_body_holds(http: Client) -> None:
    for native in ({"texts": ["inputs"]}, {"texts": 'say "inputs"'}, {"texts": "input"}):
        assert "embeddings" in (await http.post("/embed", json=native)).json()
    both = await http.post("/embed", json={"texts": "a", "inputs": "b"})
    assert (
        both.json()["error"]["message"] == "texts and inputs exclude each other; send one of them"
    )
    neither = await http.post("/embed", json={"input": "a"})
    assert neither.json()["error"]["message"] == "texts: Field required (and 1 more)"
    for garbled in (b'{"texts": "inputs"', b'["texts", "inputs"]'):
        answer = await http.post("/embed", content=garbled)
        assert set(answer.json()) == {"error"}
        assert answer.status_code in (400, 422)


HOSTILE: list[Any] = [
    [None] * 10_000,
    [[]] * 10_000,
    [[None]] * 10_000,
    [["a", 1]] * 10_000,
    [{}] * 10_000,
    [1.5] * 10_000,
    {"source_sentence": [], "sentences": [1] * 10_000},
    None,
]


@pytest.mark.parametrize("path", ["/embed", "/predict", "/similarity", "/tokenize", "/"])
@pytest.mark.parametrize("inputs", HOSTILE, ids=range(len(HOSTILE)))
async def test_a_body_wrong_many_times_costs_one_short_error(
    http: Client, path: str, inputs: object
) -> None:
    answer = await http.post(
        path, json={"inputs": inputs, "parameters": {}} if path == "/" else {"inputs": inputs}
    )
    assert answer.status_code == 422
    assert set(answer.json()) == {"error", "error_type"}
    assert len(answer.content) < 500


@pytest.mark.parametrize("path", ["/predict", "/", "/tokenize", "/vertex"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b'"\\ud800"']
)
async def test_no_json_is_a_400(http: Client, path: str, content: bytes) -> None:
    answer = await http.post(path, content=content)
    assert answer.status_code == 400
    assert answer.json()["error_type"] == "Validation"
    assert "JSON" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/", "/embed", "/predict"])
async def test_what_json_cannot_say_is_no_number(http: Client, path: str) -> None:
    body = json.dumps({"inputs": math.nan, "dimensions": math.inf})
    answer = await http.post(path, content=body)
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"error", "error_type"}


async def test_errors_of_the_service_have_teis_shape_too(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, api_key="key", max_body_bytes=100) as http:
        keyless = await http.post("/predict", json={"inputs": "hund"})
        http.headers["authorization"] = "Bearer key"
        large = await http.post("/predict", json={"inputs": "hund " * 100})
        elsewhere = await http.get("/predict")
        await http.service.stop()
        leaving = await http.post("/predict", json={"inputs": "hund"})
    told = [(each.status_code, each.json()) for each in (keyless, large, elsewhere, leaving)]
    assert [(status, set(body), body["error_type"]) for status, body in told] == [
        (401, {"error", "error_type"}, "Unauthorized"),
        (413, {"error", "error_type"}, "Validation"),
        (405, {"error", "error_type"}, "Validation"),
        (503, {"error", "error_type"}, "Unhealthy"),
    ]
    assert keyless.headers["www-authenticate"] == "Bearer"
    assert leaving.headers["retry-after"] == "1"


async def test_too_many_are_told_when_to_come_back(toy_model_dir: Path) -> None:
    async with full(toy_model_dir) as http:
        answer = await http.post("/predict?task=topic", json={"inputs": "hund"})
        assert answer.status_code == 429
        assert answer.json()["error_type"] == "Overloaded"
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_model_that_fails_is_a_failed_dependency_and_counted(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir) as (http, engine):
        engine.session.failure = RuntimeError("broken")
        engine.session.gate.release(20)
        answer = await http.post("/predict?task=topic", json={"inputs": "hund"})
        assert answer.status_code == 424
        assert answer.json()["error_type"] == "Backend"
        assert http.value("requests_total", route="/predict", status="424") == 1
        assert http.value("errors_total", code="inference_failed") == 1


async def test_requests_are_timed_by_route_and_task(http: Client) -> None:
    await ask(http, "/predict", "hund")
    await ask(http, "/similarity", {"source_sentence": "hund", "sentences": ["dog"]})
    await ask(http, "/tokenize", "hund")
    for route, task in (("/predict", "topic"), ("/similarity", "embed"), ("/tokenize", "tokenize")):
        labels = {"route": route, "task": task, "model": "toy"}
        assert http.value("request_duration_seconds_count", **labels) == 1
        assert http.value("requests_total", route=route, status="200") == 1
