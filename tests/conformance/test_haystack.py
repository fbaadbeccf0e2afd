"""Haystack's embedders for Text Embeddings Inference."""

from typing import Any

import pytest
from haystack import Document
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from live import TEXTS, Live, assert_same


def arguments(server: Live, **options: object) -> dict[str, Any]:
    url = {"url": server.url}
    return {"api_type": "text_embeddings_inference", "api_params": url, "token": None, **options}


@pytest.mark.parametrize("normalize", [False, True])
def test_a_text(server: Live, normalize: bool) -> None:
    """Not of length 1 by default."""
    options = {"normalize": True} if normalize else {}
    found = HuggingFaceAPITextEmbedder(**arguments(server, **options)).run(TEXTS[0])
    assert_same([found["embedding"]], server.embed(TEXTS[:1], normalize=normalize))


async def test_a_text_without_waiting(server: Live) -> None:
    embedder = HuggingFaceAPITextEmbedder(**arguments(server))
    found = await embedder.run_async(TEXTS[0])
    await embedder.close_async()
    assert_same([found["embedding"]], server.embed(TEXTS[:1], normalize=False))


def test_documents_in_batches(server: Live) -> None:
    texts = TEXTS * 12
    embedder = HuggingFaceAPIDocumentEmbedder(**arguments(server, progress_bar=False))
    found = embedder.run([Document(content=text) for text in texts])["documents"]
    assert embedder.batch_size < len(texts)
    assert [document.content for document in found] == texts
    assert_same([document.embedding for document in found], server.embed(texts, normalize=False))
