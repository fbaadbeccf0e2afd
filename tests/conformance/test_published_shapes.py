"""Answers and errors fit the shapes that the servers we stand in for have published."""

from typing import Any

import httpx
import jsonschema
import published
import pytest
from live import STUDENT, TEXTS, Live

TEXT = TEXTS[0]
SIMILAR = {"inputs": {"source_sentence": TEXT, "sentences": TEXTS[1:]}}

ANSWERS = [
    ("/v1/embeddings", {"input": TEXT, "model": STUDENT}, published.OPENAI_EMBEDDINGS),
    ("/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"}, published.OPENAI_EMBEDDINGS),
    ("/embeddings", {"input": TEXT}, published.INFINITY_EMBEDDINGS),
    ("/embeddings", {"input": TEXTS, "encoding_format": "base64"}, published.INFINITY_EMBEDDINGS),
    ("/classify?task=topic", {"input": TEXTS}, published.INFINITY_CLASSIFY),
    ("/classify?task=topic", {"input": TEXTS, "raw_scores": True}, published.INFINITY_CLASSIFY),
    ("/embed", {"inputs": TEXT}, published.TEI_EMBED),
    ("/embed", {"inputs": TEXTS, "normalize": False, "truncate": None}, published.TEI_EMBED),
    ("/predict?task=topic", {"inputs": TEXT}, published.TEI_PREDICT),
    ("/predict?task=topic", {"inputs": [[TEXT], [TEXTS[1]]]}, published.TEI_PREDICT),
    ("/predict?task=topic", {"inputs": TEXT, "raw_scores": True}, published.TEI_PREDICT),
    ("/similarity", SIMILAR, published.TEI_SIMILARITY),
    ("/similarity", {**SIMILAR, "parameters": None}, published.TEI_SIMILARITY),
    ("/tokenize", {"inputs": TEXT}, published.TEI_TOKENIZE),
    ("/tokenize", {"inputs": TEXTS, "add_special_tokens": False}, published.TEI_TOKENIZE),
    ("/decode", {"ids": [5, 6, 7]}, published.TEI_DECODE),
    ("/decode", {"ids": [[5, 6], [7]], "skip_special_tokens": False}, published.TEI_DECODE),
]
QUESTIONS = [
    ("/health", published.INFINITY_HEALTH),
    ("/models", published.INFINITY_MODELS),
    ("/info", published.TEI_INFO),
    ("/v1/models", published.OPENAI_MODELS),
    (f"/v1/models/{STUDENT}", published.OPENAI_MODEL),
]
ERRORS = [
    ("/v1/embeddings", {"input": ""}, 400, published.OPENAI_ERROR),
    ("/v1/embeddings", {"input": TEXT, "model": "gpt-9"}, 404, published.OPENAI_ERROR),
    ("/v1/embeddings", {}, 400, published.OPENAI_ERROR),
    ("/embeddings", {"input": []}, 422, published.INFINITY_PROBLEMS),
    ("/embeddings", {"input": [5]}, 422, published.INFINITY_PROBLEMS),
    ("/classify?task=topic", {"input": TEXT}, 422, published.INFINITY_PROBLEMS),
    ("/embed", {"inputs": TEXT, "dimensions": 100_000}, 422, published.TEI_ERROR),
    ("/embed", {"inputs": []}, 400, published.TEI_ERROR),
    ("/predict?task=topic", {"inputs": ["one", "two", "three"]}, 422, published.TEI_ERROR),
    ("/similarity", {"inputs": {"source_sentence": TEXT}}, 422, published.TEI_ERROR),
    ("/tokenize", {"inputs": 5}, 422, published.TEI_ERROR),
    ("/decode", {"ids": "5"}, 422, published.TEI_ERROR),
]


def named(cases: list[Any]) -> list[str]:
    return [f"{number} {case[0]}" for number, case in enumerate(cases)]


@pytest.mark.parametrize(("path", "body", "shape"), ANSWERS, ids=named(ANSWERS))
def test_an_answer_fits(server: Live, path: str, body: object, shape: dict[str, Any]) -> None:
    answer = httpx.post(f"{server.url}{path}", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    jsonschema.validate(answer.json(), shape)


@pytest.mark.parametrize(("path", "shape"), QUESTIONS, ids=named(QUESTIONS))
def test_what_is_told_of_the_server_fits(server: Live, path: str, shape: dict[str, Any]) -> None:
    answer = httpx.get(f"{server.url}{path}")
    assert answer.status_code == 200, answer.text
    jsonschema.validate(answer.json(), shape)


@pytest.mark.parametrize(("path", "body", "status", "shape"), ERRORS, ids=named(ERRORS))
def test_an_error_fits(
    server: Live, path: str, body: object, status: int, shape: dict[str, Any]
) -> None:
    answer = httpx.post(f"{server.url}{path}", json=body)
    assert answer.status_code == status, answer.text
    jsonschema.validate(answer.json(), shape)
