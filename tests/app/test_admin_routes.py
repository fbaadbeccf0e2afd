"""What is served is changed by who carries the admin key, and only within the root of models."""

from pathlib import Path

import httpx
import pytest
from serving import ADMIN_KEY, BEARING, Admin, serving
from test_workers import running, wait_until
from toy_student import write_model_dir, write_turned

from app.errors import InputError
from app.exchange import inside

CALLS = [("GET", ""), ("POST", ""), ("DELETE", "/toy")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root, a model folder in it, and others that lie outside. Nobody may write to it."""
    place = tmp_path_factory.mktemp("place")
    write_turned(place / "models" / "turned")
    outside = write_turned(place / "outside", name="outside")
    write_turned(place / "models-2" / "turned", name="outside")
    (place / "models" / "link").symlink_to(outside)
    (place / "models" / "near").symlink_to(place / "models" / "turned")
    (place / "models" / "round").symlink_to(place / "models" / "round")
    (place / "models" / "borrowed").mkdir()
    (place / "models" / "borrowed" / "manifest.json").symlink_to(outside / "manifest.json")
    return place


@pytest.mark.parametrize("folder", ["turned", "near", "./turned", "turned/"])
def test_folders_under_the_root_are_found(place: Path, folder: str) -> None:
    assert inside(place / "models", folder) == (place / "models" / "turned").resolve()


@pytest.mark.parametrize(
    "folder",
    [
        *("../outside", "..", ".", "", "/", "turned/../../outside", "turned/../turned"),
        *("../models-2/turned", "link", "link/../turned", "round", "borrowed", "a\0b"),
        *("{place}/outside", "{place}/models/turned", "~", "../models/turned"),
    ],
)
async def test_no_path_leads_out_of_the_root(toy_model_dir: Path, place: Path, folder: str) -> None:
    folder = folder.format(place=place)
    if folder != "~":  # which is a name like any other
        with pytest.raises(InputError, match="does not lie under LIGHTMBERT_MODELS_ROOT"):
            inside(place / "models", folder)
    async with serving(toy_model_dir, models_root=place / "models", admin_key=ADMIN_KEY) as http:
        answer = await Admin(http).load(folder)
        assert answer.status_code == 422
        assert [each.name for each in http.service.students] == ["toy"]


def test_without_the_root_nothing_lies_under_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not lie under"):
        inside(tmp_path / "not there", "toy")


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_nobody_gets_in_without_the_admin_key(
    toy_model_dir: Path, method: str, path: str
) -> None:
    url = f"/admin/models{path}"
    to_work = {"authorization": "Bearer to-work"}
    async with serving(toy_model_dir, admin_key=ADMIN_KEY, api_key="to-work") as http:
        for headers in ({}, to_work):
            answer = await http.request(method, url, headers=headers, content=b"not JSON")
            assert answer.status_code == 401
    async with serving(toy_model_dir, api_key="to-work") as http:
        for headers in (BEARING, to_work):
            answer = await http.request(method, url, headers=headers, content=b"not JSON")
            assert answer.status_code == 403
            assert "LIGHTMBERT_ADMIN_KEY is not set" in answer.json()["error"]["message"]


async def test_without_a_root_nothing_is_loaded(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, admin_key=ADMIN_KEY) as http:
        answer = await Admin(http).load(".")
        assert answer.status_code == 403
        assert "LIGHTMBERT_MODELS_ROOT is not set" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"folder": 3}', b'{"folder": "a", "x": 1}'])
async def test_a_wrong_body_is_refused(toy_model_dir: Path, body: bytes) -> None:
    async with serving(toy_model_dir, admin_key=ADMIN_KEY, models_root=toy_model_dir) as http:
        answer = await http.post("/admin/models", headers=BEARING, content=body)
        assert answer.status_code == (422 if body else 400)


def test_one_of_several_workers_refuses_and_says_what_to_do(tmp_path: Path) -> None:
    folder = write_model_dir(tmp_path / "models" / "toy")
    variables = {"ADMIN_KEY": ADMIN_KEY, "MODELS_ROOT": str(tmp_path / "models")}
    with running(folder, tmp_path, **variables) as service:
        wait_until(lambda: service.all_ready)
        url = f"{service.url}/admin/models"
        loaded = httpx.post(url, headers=BEARING, json={"folder": "toy"})
        unloaded = httpx.delete(f"{url}/toy", headers=BEARING)
        shown = httpx.get(url, headers=BEARING)
    for answer in (loaded, unloaded):
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert "one of several workers" in answer.json()["error"]["message"]
    assert [each["name"] for each in shown.json()["models"]] == ["toy"]
