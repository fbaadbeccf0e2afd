"""What clients do besides what a contract says: odd paths, methods, headers, other origins."""

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from serving import Client, serving

from app.api import contracts
from app.settings import Settings

ORIGIN = "https://shop.example"


@pytest.fixture
async def http(toy_model_dir: Path) -> AsyncIterator[Client]:
    async with serving(toy_model_dir) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/embed/", "/embed"),
        ("//embed", "/embed"),
        ("/v1/v1/embeddings", "/v1/embeddings"),
        ("/v1//embeddings/", "/v1/embeddings"),
        ("/predict/", "/predict"),
    ],
)
async def test_a_path_nearly_right_is_told_the_right_one(
    http: Client, path: str, near: str
) -> None:
    answer = await http.post(f"http://service{path}", json={})
    assert answer.status_code == 404
    assert f'"there is no route {path}; there is {near}"' in answer.text  # in any dialect


@pytest.mark.parametrize("path", ["/nowhere", "/nowhere/", "/v2/embeddings"])
async def test_a_path_that_is_no_route_is_told_nothing_more(http: Client, path: str) -> None:
    answer = await http.post(path, json={})
    assert answer.json()["error"]["message"] == f"there is no route {path}"


@pytest.mark.parametrize("path", contracts.HANDLERS)
async def test_a_compressed_body_is_refused_with_what_to_do(http: Client, path: str) -> None:
    body = gzip.compress(b'{"texts": ["hund"]}')
    answer = await http.post(path, content=body, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "'gzip'; send it as it is, without Content-Encoding" in answer.text


async def test_a_body_said_to_be_as_it_is_is_read(http: Client) -> None:
    headers = {"Content-Encoding": "Identity"}
    answer = await http.post("/embed", json={"texts": "hund"}, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", contracts.HANDLERS)
@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "PATCH", "DELETE"])
async def test_another_method_is_told_which_there_is(http: Client, path: str, method: str) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == ("GET, HEAD, POST" if path == "/" else "POST")


@pytest.mark.parametrize("path", contracts.HANDLERS)
async def test_a_key_where_none_is_asked_for_is_not_in_the_way(http: Client, path: str) -> None:
    answer = await http.post(path, content=b"", headers={"AUTHORIZATION": "Bearer any"})
    assert answer.status_code in (400, 422)


async def test_other_origins_are_told_nothing_unless_they_are_named(http: Client) -> None:
    answer = await http.post("/embed", json={"texts": "hund"}, headers={"Origin": ORIGIN})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("origins", "named"), [(f" {ORIGIN} , http://localhost:5173", ORIGIN), ("*", "*")]
)
async def test_a_page_of_a_named_origin_may_call_with_a_key_and_headers_of_its_own(
    toy_model_dir: Path, origins: str, named: str
) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    async with serving(toy_model_dir, cors_origins=origins, api_key="right") as http:
        before = await http.options("/v1/embeddings", headers=asked)
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == named
        allowed = before.headers["access-control-allow-headers"]
        assert {"authorization", "content-type", "x-stainless-lang"} <= set(allowed.split(","))
        assert "POST" in before.headers["access-control-allow-methods"]
        for key, status in (("right", 200), ("wrong", 401)):  # an error must be readable too
            headers = {"Origin": ORIGIN, "Authorization": f"Bearer {key}"}
            answer = await http.post("/v1/embeddings", json={"input": "hund"}, headers=headers)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == named
            assert answer.headers["access-control-expose-headers"] == "*"


async def test_a_page_is_told_of_a_bug_too(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, cors_origins=ORIGIN) as http:
        http.service.engine._forward._tokenizer = None
        answer = await http.post("/embed", json={"texts": "hund"}, headers={"Origin": ORIGIN})
        assert answer.status_code == 500
        assert answer.headers["access-control-allow-origin"] == ORIGIN


async def test_a_page_of_another_origin_may_not(toy_model_dir: Path) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    async with serving(toy_model_dir, cors_origins=ORIGIN) as http:
        before = await http.options("/embed", headers=asked)
        assert before.status_code == 400
        assert "access-control-allow-origin" not in before.headers


@pytest.mark.parametrize("origins", ["shop.example", "https://shop.example/path", "null", "*,x"])
def test_what_is_no_origin_is_refused(origins: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        Settings(cors_origins=origins)
