"""`litellm`, by each of its providers that speaks a contract of ours."""

import litellm
import pytest
from live import STUDENT, TEXTS, Live, assert_same

PROVIDERS = [("openai", "/v1"), ("hosted_vllm", "/v1"), ("infinity", "")]


@pytest.mark.parametrize(("provider", "path"), PROVIDERS)
def test_embedding(server: Live, provider: str, path: str) -> None:
    answer = litellm.embedding(
        model=f"{provider}/{STUDENT}", input=TEXTS, api_base=f"{server.url}{path}", api_key="any"
    )
    assert_same([item["embedding"] for item in answer.data], server.embed(TEXTS))
    assert answer.usage.prompt_tokens == server.post("/embed", texts=TEXTS)["usage"]["tokens"]


async def test_embedding_without_waiting(server: Live) -> None:
    answer = await litellm.aembedding(
        model=f"openai/{STUDENT}",
        input=TEXTS,
        api_base=f"{server.url}/v1",
        api_key="any",
        dimensions=64,
        allowed_openai_params=["dimensions"],
    )
    assert_same([item["embedding"] for item in answer.data], server.embed(TEXTS, dimensions=64))


def test_another_model_is_not_found(server: Live) -> None:
    with pytest.raises(litellm.NotFoundError, match="gpt-9"):
        litellm.embedding(
            model="openai/gpt-9", input=TEXTS, api_base=f"{server.url}/v1", api_key="any"
        )
