from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate
from serving import serving

from app.main import create_app
from app.metrics import ROUTES
from app.service import Service
from app.settings import Settings

EVERYWHERE = {"200", "400", "401", "413", "415", "429", "500", "503", "504"}
TEI = EVERYWHERE | {"422", "424"}
STATUSES = dict.fromkeys(
    (
        *("/", "/invocations", "/vertex", "/embed", "/similarity"),
        *("/predict", "/tokenize", "/decode"),
    ),
    TEI,
) | {
    "/classify": EVERYWHERE | {"422"},
    "/embeddings": EVERYWHERE | {"422"},
    "/v1/embeddings": EVERYWHERE | {"404"},
}
BODIES: dict[str, list[dict[str, Any]]] = {
    "/embed": [
        *({"texts": ["hund", "tax"]}, {"texts": []}, {"texts": "hund", "inputs": "hund"}),
        *({"inputs": ["hund", "tax"]}, {"inputs": [4, 5]}, {"inputs": []}, {"inputs": 1}),
    ],
    "/similarity": [
        {"inputs": {"source_sentence": "hund", "sentences": ["dog", "tax"]}},
        {"inputs": {"source_sentence": "hund", "sentences": []}},
        {"inputs": "hund"},
    ],
    "/predict": [{"inputs": "hund"}, {"inputs": [["hund"], ["tax"]]}, {"inputs": [[1]]}],
    "/tokenize": [{"inputs": "hund"}, {"inputs": []}],
    "/decode": [{"ids": [4]}, {"ids": [[4], [5]]}, {"ids": [99]}],
    "/": (
        root := [
            {"inputs": "hund"},
            {"inputs": {"source_sentence": "hund", "sentences": ["dog", "tax"]}},
            {"inputs": "hund", "parameters": {}},
            {"inputs": "hund", "parameters": {"candidate_labels": ["dog", "tax"]}},
            {"inputs": ["hund"], "parameters": {"candidate_labels": ["dog", "tax"]}},
            {"inputs": "hund", "parameters": {"top_k": 0}},
        ]
    ),
    "/invocations": root,
    "/vertex": [{"instances": root[:5]}, {"instances": root}, {"instances": []}],
    "/classify": [
        *({"texts": ["hund", "tax"], "task": "topic"}, {"texts": []}, {"input": []}),
        *({"input": ["hund", "tax"]}, {"input": "hund"}, {"input": ["hund"], "model": "big"}),
    ],
    "/embeddings": [
        *({"input": "hund"}, {"input": ["hund"], "encoding_format": "base64"}, {"input": [" "]}),
        *({"input": []}, {"input": [1]}, {"input": "hund", "model": "big"}),
    ],
    "/v1/embeddings": [
        {"input": ["hund", "tax"]},
        {"input": "hund", "encoding_format": "base64"},
        {"input": []},
        {"input": "hund", "model": "big"},
    ],
}
"""Some that are answered and some that are refused."""


@pytest.fixture(scope="module")
def document(toy_model_dir: Path) -> dict[str, Any]:
    return create_app(Service(Settings(model_dir=toy_model_dir))).openapi()


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_route_for_work_is_looked_at_here() -> None:
    assert set(STATUSES) == set(BODIES) == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_every_status_of_a_route_is_documented(document: dict[str, Any], route: str) -> None:
    responses = document["paths"][route]["post"]["responses"]
    assert set(responses) == STATUSES[route]
    for status, response in responses.items():
        content = response["content"]["application/json"]
        assert "schema" in content, f"{status} has no schema"
        schema = resolve(document, content["schema"])
        for each in (resolve(document, kind) for kind in schema.get("anyOf", [schema])):
            shown = "example" in {**content, **schema, **each}
            assert shown, f"{status} has no example"


@pytest.mark.parametrize("route", ROUTES)
def test_requests_have_examples_that_fit_their_schema(document: dict[str, Any], route: str) -> None:
    content = document["paths"][route]["post"]["requestBody"]["content"]["application/json"]
    assert content["examples"]
    for example in content["examples"].values():
        jsonschema.validate(example["value"], content["schema"])


@pytest.mark.parametrize("route", ROUTES)
async def test_answers_fit_the_schema_they_are_documented_by(
    document: dict[str, Any], route: str, toy_model_dir: Path
) -> None:
    responses = document["paths"][route]["post"]["responses"]
    seen = set()
    async with serving(toy_model_dir, default_task="topic") as http:
        for body in BODIES[route]:
            answer = await http.post(route, json=body)
            seen.add(answer.status_code)
            schema = responses[str(answer.status_code)]["content"]["application/json"]["schema"]
            jsonschema.validate(answer.json(), {**schema, "components": document["components"]})
    assert 200 in seen
    assert len(seen) > 1, "none was refused"


def test_every_path_has_a_summary_and_a_description(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["description"]


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
