"""The `openai` package, which asks for base64 unless it is told otherwise."""

import asyncio
import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import httpx2
import numpy as np
import openai
import pytest
from live import STUDENT, TEXTS, Live, assert_same, serving

MANY = [f"Line {i} leaves at {i % 24} o'clock." for i in range(2_048)]


@contextmanager
def asking(url: str, **options: object) -> Iterator[openai.OpenAI]:
    given: dict[str, Any] = {"api_key": "any", "max_retries": 0, **options}
    with openai.OpenAI(base_url=f"{url}/v1", **given) as client:
        yield client


@pytest.fixture
def client(server: Live) -> Iterator[openai.OpenAI]:
    with asking(server.url) as client:
        yield client


def vectors(answer: openai.types.CreateEmbeddingResponse) -> list[list[float]]:
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    assert {item.object for item in answer.data} <= {"embedding"}
    return [item.embedding for item in answer.data]


def test_embeddings_as_base64_which_it_asks_for_by_itself(
    server: Live, client: openai.OpenAI
) -> None:
    raw = client.embeddings.with_raw_response.create(model=STUDENT, input=TEXTS)
    assert isinstance(httpx.Response(200, content=raw.content).json()["data"][0]["embedding"], str)
    answer = raw.parse()
    assert (answer.object, answer.model) == ("list", STUDENT)
    assert_same(vectors(answer), server.embed(TEXTS))


def test_usage_counts_tokens_as_the_native_route_does(server: Live, client: openai.OpenAI) -> None:
    tokens = server.post("/embed", texts=TEXTS)["usage"]["tokens"]
    usage = client.embeddings.create(model=STUDENT, input=TEXTS).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (tokens, tokens)


def test_embeddings_as_floats(server: Live, client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=STUDENT, input=TEXTS, encoding_format="float")
    assert_same(vectors(answer), server.embed(TEXTS))


def test_one_string_is_one_text(server: Live, client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=STUDENT, input=TEXTS[2])
    assert_same(vectors(answer), server.embed(TEXTS[2:3]))


@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_fewer_dimensions_are_of_length_one(
    server: Live, client: openai.OpenAI, encoding: str
) -> None:
    answer = client.embeddings.create(
        model=STUDENT, input=TEXTS, dimensions=64, encoding_format=encoding
    )
    found = vectors(answer)
    if encoding == "base64":  # asked for by name, it is handed over as it came
        found = [np.frombuffer(base64.b64decode(v), "<f4") for v in found]
    assert_same(found, server.embed(TEXTS, dimensions=64))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_2048_inputs_in_one_call(server: Live, client: openai.OpenAI) -> None:
    found = vectors(client.embeddings.create(model=STUDENT, input=MANY))
    assert len(found) == len(MANY)
    assert_same(
        [found[i] for i in (0, 1_000, 2_047)], server.embed([MANY[0], MANY[1_000], MANY[-1]])
    )


async def test_embeddings_from_many_tasks_at_once(server: Live) -> None:
    expected = server.embed(TEXTS)
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        answers = await asyncio.gather(
            *(client.embeddings.create(model=STUDENT, input=text) for text in TEXTS * 8)
        )
    assert_same([vectors(answer)[0] for answer in answers], np.tile(expected, (8, 1)))


def test_models_lists_the_student_and_tells_of_it(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [STUDENT]
    found = client.models.retrieve(STUDENT)
    assert (found.id, found.object) == (STUDENT, "model")


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="text-embedding-3-small") as refusal:
        client.embeddings.create(model="text-embedding-3-small", input="x")
    assert refusal.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.models.retrieve("gpt-9")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"input": ""}, "empty"),
        ({"input": []}, "input"),
        ({"input": "x", "dimensions": 100_000}, "384"),
        ({"input": ["x"] * 2_049}, "2048"),
        ({"input": "word " * 5_000}, "256"),
        ({"input": "x", "extra_body": {"encoding_format": "hex"}}, "encoding_format"),
        ({"input": [1, 2, 3]}, "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, "check_embedding_ctx_length=False"),
    ],
)
def test_what_is_wrong_with_a_request_is_a_bad_request(
    client: openai.OpenAI, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.embeddings.create(model=STUDENT, **options)
    assert told in refusal.value.message
    assert refusal.value.type == "invalid_request_error"


def test_a_key_is_asked_for_where_one_is_set(guarded: Live) -> None:
    with asking(guarded.url, api_key="right") as client:
        assert len(client.embeddings.create(model=STUDENT, input="x").data) == 1
        assert [model.id for model in client.models.list()] == [STUDENT]
    with asking(guarded.url, api_key="wrong") as client, pytest.raises(openai.AuthenticationError):
        client.embeddings.create(model=STUDENT, input="x")


def test_a_url_without_v1_says_where_to_go(server: Live) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/wrong", api_key="any", max_retries=0)
    with client, pytest.raises(openai.NotFoundError, match="/wrong/embeddings"):
        client.embeddings.create(model=STUDENT, input="x")


def test_nobody_there_is_a_connection_error(nobody: str) -> None:
    with asking(nobody) as client, pytest.raises(openai.APIConnectionError):
        client.embeddings.create(model=STUDENT, input="x")


def test_a_timeout_of_its_own_leaves_the_server_well(server: Live) -> None:
    with asking(server.url, timeout=0.001) as client, pytest.raises(openai.APITimeoutError):
        client.embeddings.create(model=STUDENT, input=MANY)
    with asking(server.url) as client:
        assert len(client.embeddings.create(model=STUDENT, input="x").data) == 1


class Log:
    """When each call was sent, and told to come back, by the header that names the call."""

    def __init__(self) -> None:
        self.sent: dict[str, list[float]] = {}
        self.told: dict[str, list[tuple[float, float]]] = {}

    async def on_request(self, request: httpx2.Request) -> None:
        self.sent.setdefault(request.headers["x-call"], []).append(time.monotonic())

    async def on_response(self, response: httpx2.Response) -> None:
        if response.status_code == 429:
            wait_s = int(response.headers["retry-after-ms"]) / 1_000
            told = self.told.setdefault(response.request.headers["x-call"], [])
            told.append((time.monotonic(), wait_s))

    def hooks(self) -> dict[str, list[Any]]:
        return {"request": [self.on_request], "response": [self.on_response]}


async def test_an_overloaded_server_is_asked_again_when_it_said(server_python: str) -> None:
    """Far more at once than may wait: those refused come back after `retry-after-ms`, and pass."""
    calls = [[f"Text {i} of call {call}. " * 6 for i in range(16)] for call in range(24)]
    slow = {"runners": 1, "max_wait_s": 0.05, "bulk_texts": 1_000, "bulk_tokens": 100_000}
    log = Log()
    with serving(server_python, **slow) as live:
        async with openai.AsyncOpenAI(
            base_url=f"{live.url}/v1",
            api_key="any",
            max_retries=30,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks=log.hooks()),
        ) as client:
            answers = await asyncio.gather(
                *(
                    client.embeddings.create(
                        model=STUDENT, input=texts, extra_headers={"x-call": str(call)}
                    )
                    for call, texts in enumerate(calls)
                )
            )
        expected = [live.embed(texts) for texts in calls]
    for answer, vectors_of_call in zip(answers, expected, strict=True):
        assert_same(vectors(answer), vectors_of_call)
    assert log.told
    for call, told in log.told.items():
        for (told_at, wait_s), sent_again in zip(told, log.sent[call][1:], strict=True):
            assert sent_again - told_at >= wait_s
