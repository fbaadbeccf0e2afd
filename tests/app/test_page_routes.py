import re
from pathlib import Path

import pytest
from serving import serving

from app.api.page import FOLDER

PAGES = ("/", "/docs")


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_may_load_nothing_but_its_own_files(path: str, toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        page = await http.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["x-content-type-options"] == "nosniff"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy


async def test_every_file_that_a_page_or_a_script_names_is_served(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        named = set()
        for page in PAGES:
            named |= set(re.findall(r'"playground/([^"]+)"', (await http.get(page)).text))
        assert {"main.js", "docs.js", "theme.css", "icon.svg"} <= named
        seen: set[str] = set()
        while named - seen:
            name = min(named - seen)
            seen.add(name)
            file = await http.get(f"/playground/{name}")
            assert file.status_code == 200, name
            named |= set(re.findall(r'from "\./([^"]+)"', file.text))
    there = {path.name for path in FOLDER.iterdir() if path.suffix in (".js", ".css", ".svg")}
    assert seen == there, "a file that nothing loads"


@pytest.mark.parametrize("path", ["/", "/docs", "/playground/main.js"])
async def test_what_the_caller_has_is_not_sent_again(path: str, toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        first = await http.get(path)
        assert first.headers["cache-control"] == "no-cache"
        etag = first.headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = await http.get(path, headers={"if-none-match": known})
            assert again.status_code == 304
            assert again.headers["etag"] == etag
            assert not again.content
        other = await http.get(path, headers={"if-none-match": '"other"'})
        assert other.status_code == 200
        assert other.content == first.content


@pytest.mark.parametrize("path", ["/", "/docs", "/playground/theme.css"])
async def test_a_page_may_be_asked_for_its_head_alone(path: str, toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        head, full = await http.head(path), await http.get(path)
        assert head.status_code == 200
        assert head.headers == full.headers


@pytest.mark.parametrize(
    "name",
    [
        *("nothing.js", "jsconfig.json", "README.md", "index.html", "docs.html"),
        *("..%2Fmain.py", "%2e%2e/main.py"),
    ],
)
async def test_no_other_file_is_ever_served(name: str, toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        answer = await http.get(f"/playground/{name}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"


async def test_the_page_is_there_while_the_model_is_not(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        await http.service.stop()
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/")).status_code == 200
        assert (await http.get("/redoc")).status_code == 404


def test_a_file_of_the_page_is_one_idea_and_so_not_long() -> None:
    for path in FOLDER.iterdir():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path.name


def test_no_file_of_the_page_names_another_host() -> None:
    for path in FOLDER.iterdir():
        found = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text(encoding="utf-8")))
        # The name space of SVG is a name and no address.
        assert found <= {"http://www.w3.org"}, path.name
