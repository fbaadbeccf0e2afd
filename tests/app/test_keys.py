"""Where a key is set, nobody works or changes anything without it, and it is told to nobody."""

import logging
import socket
from pathlib import Path

import pytest
from serving import serving

from app.settings import Settings
from app.workers import Supervisor

KEYS = {"api_key": "för-arbete", "admin_key": "to-change"}


def bearing(key: str, scheme: str = "Bearer") -> dict[bytes, bytes]:
    return {b"authorization": f"{scheme} {key}".encode()}


@pytest.mark.parametrize("path", ["/embed", "/classify"])
@pytest.mark.parametrize(
    "headers",
    [{}, bearing(""), bearing("för-arbet"), bearing("för-arbete", "Basic"), bearing("Bearer")],
)
async def test_without_the_key_nothing_is_read(
    toy_model_dir: Path, path: str, headers: dict[bytes, bytes]
) -> None:
    async with serving(toy_model_dir, **KEYS) as http:
        answer = await http.post(path, content=b"not JSON", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"] == {
            "code": "unauthorized",
            "message": "a valid key is needed: Authorization: Bearer <key>",
        }
        assert http.value("requests_total", route=path, status="401") == 1


@pytest.mark.parametrize("key", KEYS.values())
async def test_either_key_is_good_for_work(toy_model_dir: Path, key: str) -> None:
    async with serving(toy_model_dir, **KEYS) as http:
        for scheme in ("Bearer", "bearer"):
            headers = bearing(key, scheme)
            answer = await http.post("/embed", json={"texts": "hund"}, headers=headers)
            assert answer.status_code == 200


OPEN = {
    f"get {path}" for path in ("/", "/livez", "/readyz", "/health", "/ping", "/metrics", "/info")
}
ADMIN_ONLY = ("/admin/", "/heads/")


async def test_every_route_that_is_documented_asks_for_its_key(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, **KEYS) as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
        answered = {}
        for path, operations in paths.items():
            for method in operations:
                without = await http.request(method, path)
                answered[f"{method} {path}"] = without.status_code
                with_api_key = await http.request(method, path, headers=bearing("för-arbete"))
                assert (with_api_key.status_code == 401) == path.startswith(ADMIN_ONLY), path
    without_key = {route: status for route, status in answered.items() if status != 401}
    assert without_key == dict.fromkeys(OPEN, 200)


async def test_no_key_is_logged(toy_model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with serving(toy_model_dir, **KEYS) as http:
            await http.post("/embed", json={"texts": "hund"}, headers=bearing("geheim"))
    told = "\n".join(str(vars(record)) for record in caplog.records)
    assert "ready" in told
    assert not any(key in told for key in (*KEYS.values(), "geheim"))


def test_workers_are_given_the_keys_themselves(toy_model_dir: Path, tmp_path: Path) -> None:
    settings = Settings(model_dir=toy_model_dir, **KEYS)
    with socket.socket() as listening:
        given = Supervisor(settings, listening, tmp_path)._environment()
    assert given["LIGHTMBERT_API_KEY"] == KEYS["api_key"]
    assert given["LIGHTMBERT_ADMIN_KEY"] == KEYS["admin_key"]
