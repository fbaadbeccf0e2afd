"""A body that is wrong a million times costs no more than one that is wrong once."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from serving import Client, serving

from app.api.native import ClassifyRequest, EmbedRequest

MOST_BYTES = 500
"""Of any error, whatever it is about."""


@pytest.fixture
async def http(toy_model_dir: Path) -> AsyncIterator[Client]:
    async with serving(toy_model_dir) as client:
        yield client


@pytest.mark.parametrize("model", [EmbedRequest, ClassifyRequest])
def test_checking_a_list_ends_at_its_first_wrong_item(
    model: type[EmbedRequest] | type[ClassifyRequest],
) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json(json.dumps({"texts": [1] * 10_000}))
    assert caught.value.error_count() == 1


@pytest.mark.parametrize("path", ["/embed", "/classify"])
async def test_the_first_wrong_item_is_named(http: Client, path: str) -> None:
    answer = await http.post(path, json={"texts": ["hund", 1, 2]})
    assert answer.json()["error"]["param"] == "texts[1]"


async def test_a_thousand_unknown_keys_are_counted_and_not_listed(
    http: Client,
) -> None:
    body = {"texts": "hund"} | {f"key{number}": 1 for number in range(1_000)}
    answer = await http.post("/embed", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "code": "invalid_input",
        "message": "the body has 1000 unknown or wrong keys",
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "m" * 100_000}, f"model '{'m' * 64}…' is not served here; served: toy"),
        (
            {"task": "t" * 100_000},
            f"task '{'t' * 64}…' is unknown; this model's tasks: same, topic",
        ),
        ({"k" * 100_000: 1}, f"{'k' * 64}…: unknown key"),
    ],
)
async def test_an_error_repeats_little_of_a_long_word(
    http: Client, wrong: dict[str, Any], message: str
) -> None:
    answer = await http.post("/classify", json={"texts": "hund", **wrong})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == message
    assert len(answer.content) < MOST_BYTES
