import base64
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Client, serving
from toy_student import MAX_TOKENS


@pytest.fixture
async def http(toy_model_dir: Path) -> AsyncIterator[Client]:
    async with serving(toy_model_dir) as client:
        yield client


async def test_embeddings_come_in_the_order_of_the_texts(http: Client) -> None:
    answer = (await http.embed(["tax", "hund", "katt hund"])).json()
    half = math.sqrt(0.5)
    assert answer["model"] == "toy"
    assert answer["dimensions"] == 4
    assert answer["embeddings"] == [
        pytest.approx([0, 0, 1, 0]),
        pytest.approx([1, 0, 0, 0]),
        pytest.approx([half, half, 0, 0]),
    ]
    assert answer["usage"] == {"texts": 3, "tokens": 3 + 3 + 4, "truncated": []}


async def test_a_single_text_is_a_list_of_one(http: Client) -> None:
    assert (await http.embed("katt")).json()["embeddings"] == [[0, 1, 0, 0]]


async def test_two_strings_are_two_texts(http: Client) -> None:
    assert (await http.embed(["hund", "katt"])).json()["usage"]["texts"] == 2


async def test_a_text_is_embedded_alike_alone_and_in_company(http: Client) -> None:
    alone = (await http.embed("katt tax")).json()["embeddings"][0]
    company = (await http.embed(["hund katt hund katt tax", "katt tax"])).json()["embeddings"][1]
    assert company == pytest.approx(alone, abs=1e-6)


async def test_dimensions_are_cut_before_the_vector_is_scaled_to_length_1(http: Client) -> None:
    answer = (await http.embed("hund hund tax", dimensions=2)).json()
    assert answer["dimensions"] == 2
    assert answer["embeddings"][0] == pytest.approx([1, 0])


async def test_vectors_are_not_scaled_if_not_wanted(http: Client) -> None:
    vector = (await http.embed("hund hund", normalize=False)).json()["embeddings"][0]
    assert vector == pytest.approx([2 / 4, 0, 0, 0])  # two of four tokens


async def test_base64_holds_the_very_numbers_that_json_holds(http: Client) -> None:
    for dtype, layout in (("float32", "<f4"), ("int8", "i1"), ("binary", "u1")):
        texts = ["hund katt katt", "tax"]
        plain = (await http.embed(texts, dtype=dtype)).json()["embeddings"]
        coded = (await http.embed(texts, dtype=dtype, encoding="base64")).json()["embeddings"]
        decoded = [np.frombuffer(base64.b64decode(row), dtype=layout).tolist() for row in coded]
        assert decoded == [pytest.approx(row) for row in plain]


async def test_a_long_text_is_refused_and_the_limit_named(http: Client) -> None:
    answer = await http.embed(["hund", "hund " * MAX_TOKENS])
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "code": "text_too_long",
        "message": "texts[1] has 10 tokens; this model accepts 8. "
        "Shorten it, or send truncate=true to use its beginning",
        "param": "texts[1]",
    }


async def test_a_long_text_is_cut_on_request_and_the_cut_is_reported(http: Client) -> None:
    answer = (await http.embed(["hund", "katt " * 6 + "tax " * 9], truncate=True)).json()
    assert answer["usage"] == {"texts": 2, "tokens": 3 + MAX_TOKENS, "truncated": [1]}
    assert answer["embeddings"][1] == [0, 1, 0, 0]
    assert http.value("truncated_texts_total") == 1


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "texts", "texts: Field required"),
        ({"texts": []}, "texts", "texts is empty; send 1 to 2048"),
        ({"texts": ["hund", " \n"]}, "texts[1]", "texts[1] is empty or only white space"),
        ({"texts": ""}, "texts[0]", "texts[0] is empty or only white space"),
        ({"texts": ["hund", 5]}, "texts[1]", "texts[1]: Input should be a valid string"),
        ({"texts": [["hund", "katt"]]}, "texts[0]", "texts[0]: Input should be a valid string"),
        (
            {"texts": "hund", "dimensions": 5},
            "dimensions",
            "dimensions is 5; this model gives 1 to 4",
        ),
        (
            {"texts": "hund", "dimensions": 0},
            "dimensions",
            "dimensions: Input should be greater than 0",
        ),
        (
            {"texts": "hund", "dimensions": "2"},
            "dimensions",
            "dimensions: Input should be a valid integer",
        ),
        (
            {"texts": "hund", "truncate": "yes"},
            "truncate",
            "truncate: Input should be a valid boolean",
        ),
        ({"texts": "hund", "model": "big"}, "model", "model 'big' is not served here; served: toy"),
        ({"texts": "hund", "pooling": "cls"}, "pooling", "pooling: unknown key"),
        (
            {"texts": "hund", "dtype": "int4"},
            "dtype",
            "dtype: Input should be 'float32', 'int8' or 'binary'",
        ),
    ],
)
async def test_what_is_wrong_is_named(
    http: Client, body: dict[str, Any], param: str, message: str
) -> None:
    answer = await http.post("/embed", json=body)
    assert answer.status_code == 422
    codes = {"model": "unknown_model"} | ({} if body.get("texts") else {"texts": "no_texts"})
    code = codes.get(param, "invalid_input") if body else "invalid_input"
    assert answer.json() == {"error": {"code": code, "message": message, "param": param}}


async def test_more_than_one_fault_is_counted(http: Client) -> None:
    answer = await http.embed([1, 2, 3], normalize=0, extra=1)  # of a list, the first only
    message = "texts[0]: Input should be a valid string (and 2 more)"
    assert answer.json()["error"]["message"] == message


async def test_the_models_own_name_is_accepted(http: Client) -> None:
    assert (await http.embed("hund", model="toy")).status_code == 200
