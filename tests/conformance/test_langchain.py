"""LangChain: the packages for OpenAI, Infinity and Hugging Face."""

import os
from pathlib import Path

import litellm
import openai
import pytest
from langchain_community.embeddings import InfinityEmbeddings
from langchain_huggingface import HuggingFaceEndpointEmbeddings
from langchain_openai import OpenAIEmbeddings
from live import STUDENT, TEXTS, Live, assert_same

# Three requests' worth for Infinity's client, which sends 128 at a time and sorts them by length.
MANY = [f"{'On and ' * (i % 7)}on it goes, {i}." for i in range(300)]


def asking(server: Live, **options: object) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        model=STUDENT, base_url=f"{server.url}/v1", api_key="any", max_retries=0, **options
    )


@pytest.fixture
def vocabulary_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """tiktoken downloads its vocabulary; another client here brings a copy."""
    [kept] = Path(litellm.__file__).parent.glob("**/9b5ad71b2ce5302211f9c61530b329a4922fc6a4")
    monkeypatch.setitem(os.environ, "TIKTOKEN_CACHE_DIR", str(kept.parent))


def test_openai_embeddings_where_lengths_are_left_to_the_server(server: Live) -> None:
    embeddings = asking(server, check_embedding_ctx_length=False)
    assert_same(embeddings.embed_documents(TEXTS), server.embed(TEXTS))
    assert_same([embeddings.embed_query(TEXTS[0])], server.embed(TEXTS[:1]))


async def test_openai_embeddings_without_waiting(server: Live) -> None:
    embeddings = asking(server, check_embedding_ctx_length=False, dimensions=64)
    assert_same(await embeddings.aembed_documents(TEXTS), server.embed(TEXTS, dimensions=64))


@pytest.mark.usefixtures("vocabulary_at_hand")
def test_openai_embeddings_as_they_come_are_told_what_to_set(server: Live) -> None:
    """By itself the package sends ids of another vocabulary, which would embed as nonsense."""
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        asking(server).embed_documents(TEXTS)


@pytest.mark.parametrize("path", ["", "/v1"])
def test_infinity_embeddings(server: Live, path: str) -> None:
    embeddings = InfinityEmbeddings(model=STUDENT, infinity_api_url=f"{server.url}{path}")
    assert_same(embeddings.embed_documents(MANY), server.embed(MANY))
    assert_same([embeddings.embed_query(TEXTS[0])], server.embed(TEXTS[:1]))


async def test_infinity_embeddings_without_waiting(server: Live) -> None:
    embeddings = InfinityEmbeddings(model=STUDENT, infinity_api_url=server.url)
    assert_same(await embeddings.aembed_documents(MANY), server.embed(MANY))


def test_hugging_face_endpoint_embeddings_refuse_a_url(server: Live) -> None:
    """The package's own rule; its users come by `langchain-openai`."""
    with pytest.raises(ValueError, match="must be a HuggingFace repo ID, not a URL"):
        HuggingFaceEndpointEmbeddings(model=server.url)
