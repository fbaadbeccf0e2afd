"""LlamaIndex's embedding for Text Embeddings Inference, which does not look at statuses."""

import numpy as np
import pytest
from live import TEXTS, Live, assert_same
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference


@pytest.fixture
def embedding(server: Live) -> TextEmbeddingsInference:
    return TextEmbeddingsInference(model_name="lightmbert-mini", base_url=server.url)


def test_texts_in_batches_of_ten(server: Live, embedding: TextEmbeddingsInference) -> None:
    texts = TEXTS * 6
    assert embedding.embed_batch_size < len(texts)
    assert_same(embedding.get_text_embedding_batch(texts), server.embed(texts))


def test_a_text_and_a_query(server: Live, embedding: TextEmbeddingsInference) -> None:
    assert_same([embedding.get_text_embedding(TEXTS[1])], server.embed(TEXTS[1:2]))
    assert_same([embedding.get_query_embedding(TEXTS[1])], server.embed(TEXTS[1:2]))


async def test_texts_without_waiting(server: Live, embedding: TextEmbeddingsInference) -> None:
    assert_same(await embedding.aget_text_embedding_batch(TEXTS), server.embed(TEXTS))


def test_a_long_text_is_cut(server: Live, embedding: TextEmbeddingsInference) -> None:
    """It asks for that by itself."""
    long = "bread and butter " * 300
    assert_same([embedding.get_text_embedding(long)], server.embed([long], truncate=True))


def test_its_token_is_the_key(guarded: Live) -> None:
    embedding = TextEmbeddingsInference(
        model_name="lightmbert-mini", base_url=guarded.url, auth_token="right"
    )
    assert np.linalg.norm(embedding.get_text_embedding("x")) == pytest.approx(1)
