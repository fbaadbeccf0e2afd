"""`huggingface_hub`'s InferenceClient, given a URL instead of a model's name.

It posts every task to that very URL; what it means is told by the body alone.
"""

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient, InferenceTimeoutError
from huggingface_hub.errors import HfHubHTTPError
from live import TEXTS, Live, assert_same

QUESTION = "Our team won the match yesterday."
LABELS = ["sports", "cooking", "law"]


@pytest.fixture
def client(server: Live) -> InferenceClient:
    return InferenceClient(model=server.url)


def test_feature_extraction_of_one_text(server: Live, client: InferenceClient) -> None:
    assert_same(client.feature_extraction(TEXTS[0]), server.embed(TEXTS[:1]))


def test_feature_extraction_of_several_texts(server: Live, client: InferenceClient) -> None:
    assert_same(client.feature_extraction(TEXTS), server.embed(TEXTS))


def test_feature_extraction_at_the_path_of_embeddings(server: Live) -> None:
    client = InferenceClient(model=f"{server.url}/embed")
    assert_same(client.feature_extraction(TEXTS), server.embed(TEXTS))


def test_feature_extraction_as_it_leaves_the_model(server: Live, client: InferenceClient) -> None:
    found = client.feature_extraction(TEXTS, normalize=False)
    assert_same(found, server.embed(TEXTS, normalize=False))
    assert not np.allclose(np.linalg.norm(found, axis=1), 1)


def test_feature_extraction_in_fewer_dimensions(server: Live, client: InferenceClient) -> None:
    found = client.feature_extraction(TEXTS, dimensions=64)
    assert_same(found, server.embed(TEXTS, dimensions=64))


def test_feature_extraction_reads_the_side_it_is_told(
    server: Live, client: InferenceClient
) -> None:
    long = "bread " * 400 + "law " * 400
    begun = client.feature_extraction(long, truncate=True)
    assert_same(begun, server.embed([long], truncate=True))
    ended = client.feature_extraction(long, truncate=True, truncation_direction="left")
    law = server.embed(["law " * 800], truncate=True)
    assert (ended @ law.T).item() > 0.99 > (begun @ law.T).item()


def test_text_classification(server: Live, client: InferenceClient) -> None:
    [expected] = server.classify([QUESTION], task="topic")
    found = client.text_classification(QUESTION, model=f"{server.url}?task=topic")
    assert [(one.label, pytest.approx(one.score, abs=1e-6)) for one in found] == [
        (one["label"], one["score"]) for one in expected["scores"]
    ]


def test_sentence_similarity_is_the_cosine(server: Live, client: InferenceClient) -> None:
    found = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
    source, *others = server.embed(TEXTS)
    np.testing.assert_allclose(found, np.array(others) @ source, atol=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_classification(server: Live, client: InferenceClient, multi_label: bool) -> None:
    template = "The subject is {}."
    [expected] = server.classify(
        [QUESTION], labels=LABELS, template=template, multi_label=multi_label
    )
    found = client.zero_shot_classification(
        QUESTION, LABELS, multi_label=multi_label, hypothesis_template=template
    )
    assert [(one.label, pytest.approx(one.score, abs=1e-6)) for one in found] == [
        (one["label"], one["score"]) for one in expected["scores"]
    ]


async def test_feature_extraction_without_waiting(server: Live) -> None:
    async with AsyncInferenceClient(model=server.url) as client:
        assert_same(await client.feature_extraction(TEXTS), server.embed(TEXTS))


def test_what_is_wrong_is_said_in_the_error(client: InferenceClient) -> None:
    with pytest.raises(HfHubHTTPError, match="100000") as refusal:
        client.feature_extraction("x", dimensions=100_000)
    assert refusal.value.response.status_code == 422
    assert refusal.value.response.json()["error_type"] == "Validation"


def test_its_token_is_let_through_and_asked_for(server: Live, guarded: Live) -> None:
    assert InferenceClient(model=server.url, token="hf_any").feature_extraction("x").shape[0] == 1
    assert InferenceClient(model=guarded.url, token="right").feature_extraction("x").shape[0] == 1
    with pytest.raises(HfHubHTTPError) as refusal:
        InferenceClient(model=guarded.url, token="wrong").feature_extraction("x")
    assert refusal.value.response.status_code == 401


def test_its_timeout_is_its_own(server: Live) -> None:
    with pytest.raises(InferenceTimeoutError):
        InferenceClient(model=server.url, timeout=0.001).feature_extraction(TEXTS * 500)
